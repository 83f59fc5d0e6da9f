#include "sha256.h"

#include <algorithm>
#include <cstring>

namespace seqexport {

void Sha256::update(const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  total_ += size;
  while (size > 0) {
    if (pending_size_ == 0 && size >= pending_.size()) {
      const size_t count = size / pending_.size(), whole = count * pending_.size();
      blocks_(state_.data(), bytes, count);
      bytes += whole, size -= whole;
      continue;
    }
    const size_t part = std::min(size, pending_.size() - pending_size_);
    std::memcpy(pending_.data() + pending_size_, bytes, part);
    pending_size_ += part, bytes += part, size -= part;
    if (pending_size_ == pending_.size()) {
      blocks_(state_.data(), pending_.data(), 1);
      pending_size_ = 0;
    }
  }
}

std::string Sha256::hex() {
  const uint64_t bits = total_ * 8;
  const uint8_t one = 0x80, zero = 0;
  update(&one, 1);
  while (pending_size_ != 56) update(&zero, 1);
  uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = uint8_t(bits >> (56 - 8 * i));
  update(length, sizeof length);

  std::string text;
  for (uint32_t word : state_)
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  return text;
}

}  // namespace seqexport
