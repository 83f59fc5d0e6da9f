#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <string>

#include "error.h"

namespace seqexport {
namespace {

uint64_t mixed(uint64_t state) {
  state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9u;
  state = (state ^ state >> 27) * 0x94D049BB133111EBu;
  return state ^ state >> 31;
}

constexpr size_t kLanes = 16;  // side by side, so that a compiler makes vectors of them

float largest_of(const float* logits, size_t count) {
  const size_t whole = count / kLanes * kLanes;
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, logits[0]);
  for (size_t i = 0; i < whole; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] = lanes[lane] < logits[i + lane] ? logits[i + lane] : lanes[lane];
  float largest = *std::max_element(lanes, lanes + kLanes);
  for (size_t i = whole; i < count; ++i) largest = std::max(largest, logits[i]);
  return largest;
}

// The first of the largest, which is looked for one by one in its own block alone.
int64_t likeliest(const float* logits, size_t vocab) {
  constexpr size_t kBlock = 1024;
  size_t block = 0;
  float largest = logits[0];
  for (size_t start = 0; start < vocab; start += kBlock) {
    const float here = largest_of(logits + start, std::min(kBlock, vocab - start));
    if (here > largest) largest = here, block = start;
  }
  return std::find(logits + block, logits + vocab, largest) - logits;
}

std::string text_of(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

}  // namespace

void check(const Sampling& sampling) {
  if (!(sampling.temperature >= 0 && std::isfinite(sampling.temperature)))
    throw BadArgument("temperature " + text_of(sampling.temperature) + ": expected at least 0");
  if (sampling.top_k < 0) throw BadArgument("top_k " + std::to_string(sampling.top_k) + ": expected at least 0");
  if (!(sampling.top_p > 0 && sampling.top_p <= 1))
    throw BadArgument("top_p " + text_of(sampling.top_p) + ": expected above 0, and 1 at most");
}

Generator Generator::seeded(uint64_t seed) { return Generator(mixed(seed)); }

double Generator::uniform() {
  state_ += 0x9E3779B97F4A7C15u;
  return double(mixed(state_) >> 11) * 0x1p-53;
}

bool all_finite(const float* logits, size_t vocab) {
  const size_t whole = vocab / kLanes * kLanes;
  float lanes[kLanes] = {};  // zero times what is not finite is not a number
  for (size_t i = 0; i < whole; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += logits[i + lane] * 0.0f;
  for (size_t i = whole; i < vocab; ++i) lanes[0] += logits[i] * 0.0f;
  return std::none_of(lanes, lanes + kLanes, [](float lane) { return std::isnan(lane); });
}

int64_t Chooser::choose(const Sampling& sampling, const float* logits, size_t vocab, Generator& generator) {
  if (sampling.temperature == 0) return likeliest(logits, vocab);
  order_.resize(vocab);
  std::iota(order_.begin(), order_.end(), 0u);
  const size_t among = sampling.top_k > 0 ? std::min(vocab, size_t(sampling.top_k)) : vocab;
  std::partial_sort(order_.begin(), order_.begin() + ptrdiff_t(among), order_.end(), [&](uint32_t a, uint32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });

  reached_.resize(among);
  const double largest = logits[order_[0]];
  double sum = 0;
  for (size_t i = 0; i < among; ++i)
    reached_[i] = sum += std::exp((double(logits[order_[i]]) - largest) / sampling.temperature);
  const auto last = std::lower_bound(reached_.begin(), reached_.end(), sampling.top_p * sum);
  const double drawn = generator.uniform() * *last;
  return order_[size_t(std::upper_bound(reached_.begin(), last, drawn) - reached_.begin())];
}

}  // namespace seqexport
