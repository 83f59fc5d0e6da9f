// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "sha256_forms.h"

namespace seqexport {

class Sha256 {
 public:
  explicit Sha256(const Sha256Form& form = sha256_forms().front()) : blocks_(form.blocks) {}

  void update(const void* data, size_t size);
  // 64 lower-case hexadecimal digits. The object is used up.
  std::string hex();

 private:
  Sha256Blocks blocks_;
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_{};
  size_t pending_size_ = 0;
  uint64_t total_ = 0;
};

}  // namespace seqexport
