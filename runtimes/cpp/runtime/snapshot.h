// What a session is at one moment, and the moments that it can go back to.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "sampling.h"

namespace seqexport {

constexpr size_t kRecent = 32;  // tokens of a sequence that a session remembers: text goes on rightly only after them

// All but the states.
struct Moment {
  std::vector<int32_t> lengths;        // [batch], tokens that each sequence has
  std::vector<float> logits;           // [batch, vocab], after each sequence's last token
  std::vector<int64_t> recent;         // [batch, kRecent], its last tokens, the newest at the end; -1: none
  Sampling sampling;
  std::vector<Generator> generators;   // [batch], of the random numbers to come

  size_t batch() const { return lengths.size(); }
  size_t position() const;  // tokens of the longest sequence
};

struct Snapshot : Moment {
  std::vector<std::string> states;  // their bytes; none of a cache where only its rows up to `lengths` are meant

  size_t bytes() const;
};

// Snapshots that a session took as it went on; the oldest go where they would take more than `max_bytes`.
class Checkpoints {
 public:
  Checkpoints(size_t every, size_t max_bytes) : every_(every), max_bytes_(max_bytes) {}

  size_t every() const { return every_; }
  bool due(size_t position) const;  // whether `every` tokens came after the newest
  void add(Snapshot snapshot);
  // The newest of at most so many tokens, or null; those after it are forgotten.
  const Snapshot* back_to(size_t tokens);

 private:
  size_t every_, max_bytes_, bytes_ = 0;
  std::vector<std::shared_ptr<const Snapshot>> kept_;  // shared with forks
};

}  // namespace seqexport
