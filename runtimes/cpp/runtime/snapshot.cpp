#include "snapshot.h"

#include <algorithm>

namespace seqexport {

size_t Moment::position() const { return size_t(*std::max_element(lengths.begin(), lengths.end())); }

size_t Snapshot::bytes() const {
  size_t bytes = lengths.size() * sizeof(int32_t) + logits.size() * sizeof(float) + recent.size() * sizeof(int64_t) +
                 generators.size() * sizeof(Generator);
  for (const std::string& state : states) bytes += state.size();
  return bytes;
}

bool Checkpoints::due(size_t position) const {
  return position - (kept_.empty() ? 0 : kept_.back()->position()) >= every_;
}

void Checkpoints::add(Snapshot snapshot) {
  bytes_ += snapshot.bytes();
  kept_.push_back(std::make_shared<const Snapshot>(std::move(snapshot)));
  while (bytes_ > max_bytes_) {
    bytes_ -= kept_.front()->bytes();
    kept_.erase(kept_.begin());
  }
}

const Snapshot* Checkpoints::back_to(size_t tokens) {
  while (!kept_.empty() && kept_.back()->position() > tokens) {
    bytes_ -= kept_.back()->bytes();
    kept_.pop_back();
  }
  return kept_.empty() ? nullptr : kept_.back().get();
}

}  // namespace seqexport
