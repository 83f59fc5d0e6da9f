// How a next token is chosen from logits: the same tokens here and in Python (runtimes/sampling.py).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace seqexport {

struct Sampling {
  double temperature = 0;  // 0: the likeliest token
  int64_t top_k = 0;       // choose among so many of the likeliest; 0: all
  double top_p = 1;        // choose among the likeliest that together reach this probability
  uint64_t seed = 0;
};

// Throws BadArgument for values that mean nothing.
void check(const Sampling& sampling);

// SplitMix64 (Steele, Lea & Flood 2014); every sequence has one for itself.
class Generator {
 public:
  static Generator seeded(uint64_t seed);
  explicit Generator(uint64_t state) : state_(state) {}

  double uniform();  // at least 0, below 1, of 53 bits
  uint64_t state() const { return state_; }

 private:
  uint64_t state_;
};

bool all_finite(const float* logits, size_t vocab);

// Chooses tokens; keeps its scratch memory from one to the next.
class Chooser {
 public:
  // One token from logits [vocab], all finite; the generator moves on unless the likeliest is taken.
  int64_t choose(const Sampling& sampling, const float* logits, size_t vocab, Generator& generator);

 private:
  int64_t among_likeliest(const Sampling& sampling, const float* logits, size_t vocab, float largest, double total,
                          double uniform);
  void in_order(const float* logits, size_t count);
  void weigh(const float* logits, double largest, double temperature);
  int64_t drawn(double top_p, double total, double uniform) const;

  std::vector<uint32_t> order_;
  std::vector<double> reached_;
};

}  // namespace seqexport
