#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu_cases.h"
#include "top_k_router.h"

namespace {

struct Sizes {
  int M, E, k, groups, kept;
};

Doubles scores_of(const Tensor& logits, size_t row, int E, bool softmax) {
  Doubles scores(E);
  double sum = 0;
  for (int e = 0; e < E; ++e) {
    const double x = logits[row * E + e];
    scores[e] = softmax ? std::exp(x) : 1 / (1 + std::exp(-x));
    sum += scores[e];
  }
  for (double& score : scores) score /= softmax ? sum : 1;
  return scores;
}

// Of `values`, the places of the `count` largest.
std::vector<int> largest(const Doubles& values, int count) {
  std::vector<int> places(values.size());
  std::iota(places.begin(), places.end(), 0);
  std::stable_sort(places.begin(), places.end(), [&](int a, int b) { return values[a] > values[b]; });
  places.resize(count);
  return places;
}

Doubles of_kept_groups(Doubles ranked, const Sizes& s) {
  const int size = s.E / s.groups;
  Doubles best(s.groups);
  for (int g = 0; g < s.groups; ++g) {
    Doubles own(ranked.begin() + g * size, ranked.begin() + (g + 1) * size);
    std::sort(own.rbegin(), own.rend());
    best[g] = own[0] + (size > 1 ? own[1] : 0);
  }
  const std::vector<int> kept = largest(best, s.kept);
  for (int e = 0; e < s.E; ++e) {
    if (std::find(kept.begin(), kept.end(), e / size) == kept.end()) ranked[e] = -INFINITY;
  }
  return ranked;
}

// Logits a quarter apart, in another order in each row, so that no rounding chooses.
void router_case(const Kernels& kernels, const Pool& pool, int dtype, const Sizes& s, bool softmax, bool biased) {
  Tensor logits(dtype, size_t(s.M) * s.E), bias(SEQEXPORT_FLOAT32, s.E), weight(SEQEXPORT_FLOAT32, size_t(s.M) * s.k);
  for (size_t i = 0; i < logits.size(); ++i) logits.set(i, (int(i * 37 % size_t(s.E)) - s.E / 2) * 0.25);
  for (int e = 0; e < s.E; ++e) bias.set(e, (e * 5 % 7 - 3) / 64.0);
  std::vector<int32_t> chosen(weight.size(), -1);
  Doubles truth(weight.size());
  std::vector<int32_t> expected;
  for (int row = 0; row < s.M; ++row) {
    const Doubles scores = scores_of(logits, row, s.E, softmax);
    Doubles ranked = scores;
    for (int e = 0; biased && e < s.E; ++e) ranked[e] += bias[e];
    if (s.kept < s.groups) ranked = of_kept_groups(ranked, s);
    const std::vector<int> own = largest(ranked, s.k);
    double sum = 0.125;
    for (const int e : own) expected.push_back(e), sum += scores[e];
    for (int i = 0; i < s.k; ++i) truth[size_t(row) * s.k + i] = 2.5 * scores[own[i]] / sum;
  }
  TopKRouterParams p{};
  p.dtype = dtype, p.rows = s.M, p.experts = s.E, p.k = s.k, p.groups = s.groups, p.kept_groups = s.kept;
  p.score = softmax ? SEQEXPORT_SOFTMAX : SEQEXPORT_SIGMOID, p.normalised = 1, p.epsilon = 0.125f, p.scale = 2.5f;
  p.logits = logits.data(), p.bias = biased ? static_cast<const float*>(bias.data()) : nullptr;
  p.chosen = chosen.data(), p.weight = static_cast<float*>(weight.data());
  kernels.top_k_router(p, pool);
  const std::string what = std::string(kernels.instruction_set) + " top_k_router dtype " + std::to_string(dtype) +
                           " M " + std::to_string(s.M) + " E " + std::to_string(s.E) + " k " + std::to_string(s.k);
  expect(what, weight, truth, bound_of(SEQEXPORT_FLOAT32));
  Tensor came(SEQEXPORT_FLOAT32, chosen.size());
  for (size_t i = 0; i < chosen.size(); ++i) came.set(i, chosen[i]);
  expect(what + " chosen", came, Doubles(expected.begin(), expected.end()), 0);
}

}  // namespace

void run_router_cases(const Kernels& k, const Pool& pool, int dtype) {
  for (int M : {1, 5, 700}) {
    for (bool softmax : {false, true}) {
      router_case(k, pool, dtype, {M, 1, 1, 1, 1}, softmax, false);
      router_case(k, pool, dtype, {M, 33, 33, 1, 1}, softmax, true);
      router_case(k, pool, dtype, {M, 24, 5, 4, 2}, softmax, true);
      router_case(k, pool, dtype, {M, 24, 2, 24, 3}, softmax, false);
    }
  }
}
