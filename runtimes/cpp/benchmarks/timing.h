// How calls are timed.
#pragma once

#include <algorithm>
#include <chrono>
#include <vector>

namespace seqexport {

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Median seconds of a call, after one that is not counted.
template <class Work>
double seconds(size_t repeats, Work&& work) {
  std::vector<double> all;
  work();
  for (size_t i = 0; i < repeats; ++i) {
    const double start = now();
    work();
    all.push_back(now() - start);
  }
  std::nth_element(all.begin(), all.begin() + ptrdiff_t(all.size() / 2), all.end());
  return all[all.size() / 2];
}

}  // namespace seqexport
