// score = softmax or sigmoid of the logits;   chosen = the k largest of score + bias, equal ones in the experts' order;
// weight = scale * score[chosen], over their sum + epsilon where normalised. With groups of experts a token chooses
// among those of its kept groups, whose two best sum to the most.
#include "top_k_router.h"

#include "math.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kTaskElements = 8192;  // of a task, unless one token has more
constexpr float kInfinity = __builtin_inff();
constexpr uint32_t kTaken = 0;  // below the rank of any number

// Numbers in their order; NaN is the largest, as PyTorch has it.
uint32_t rank_of(float x) {
  const float one_zero = x + 0.f;
  uint32_t bits;
  memcpy(&bits, &one_zero, sizeof bits);
  if (x != x) return 0xffffffffu;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
float of_rank(uint32_t rank) {
  const uint32_t bits = rank & 0x80000000u ? rank & 0x7fffffffu : ~rank;
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// The first of the largest.
int best_of(const uint32_t* ranks, int count) {
  int best = 0;
  for (int i = 1; i < count; ++i) best = ranks[i] > ranks[best] ? i : best;
  return best;
}

template <class T>
void score_experts(const TopKRouterParams& p, const T* logits, float* scores) {
  const int E = p.experts;
  const bool is_softmax = p.score == SEQEXPORT_SOFTMAX;
  float most = -kInfinity;
  for (int e = 0; e < E; e += W) store(scores + e, load(logits + e, smaller(W, E - e)), smaller(W, E - e));
  for (int e = 0; is_softmax && e < E; ++e) most = scores[e] > most ? scores[e] : most;
  for (int e = 0; e < E; e += W) {
    const int count = smaller(W, E - e);
    const Vec logit = load(scores + e, count);
    store(scores + e, is_softmax ? exp(logit - most) : 1.f / (exp(-logit) + 1.f), count);
  }
  if (!is_softmax) return;
  double sum = 0;
  for (int e = 0; e < E; ++e) sum += scores[e];
  for (int e = 0; e < E; ++e) scores[e] /= (float)sum;
}

// Experts of all but the best groups are behind any other.
void keep_groups(const TopKRouterParams& p, uint32_t* ranks, uint32_t* group_ranks) {
  const int size = p.experts / p.groups;
  for (int g = 0; g < p.groups; ++g) {
    uint32_t best = kTaken, second = kTaken;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      const uint32_t lower = ranks[e] < best ? ranks[e] : best;
      second = lower > second ? lower : second;
      best = ranks[e] > best ? ranks[e] : best;
    }
    group_ranks[g] = rank_of(size > 1 ? of_rank(best) + of_rank(second) : of_rank(best));
  }
  for (int i = 0; i < p.kept_groups; ++i) group_ranks[best_of(group_ranks, p.groups)] = kTaken;
  for (int e = 0; e < p.experts; ++e) {
    if (group_ranks[e / size] != kTaken) ranks[e] = rank_of(-kInfinity);
  }
}

template <class T>
void route(const TopKRouterParams& p, int64_t row, void* memory) {
  const int E = p.experts;
  float* scores = (float*)memory;
  uint32_t *ranks = (uint32_t*)memory + E, *group_ranks = ranks + E;
  score_experts(p, (const T*)p.logits + row * E, scores);
  for (int e = 0; e < E; ++e) ranks[e] = rank_of(p.bias ? scores[e] + p.bias[e] : scores[e]);
  if (p.kept_groups < p.groups) keep_groups(p, ranks, group_ranks);
  int32_t* chosen = p.chosen + row * p.k;
  float* weight = p.weight + row * p.k;
  double sum = 0;
  for (int i = 0; i < p.k; ++i) {
    chosen[i] = best_of(ranks, E);
    ranks[chosen[i]] = kTaken;
    sum += weight[i] = scores[chosen[i]];
  }
  const float by = p.normalised ? (float)(sum + p.epsilon) : 1;
  for (int i = 0; i < p.k; ++i) weight[i] = weight[i] / by * p.scale;
}

}  // namespace

void top_k_router(const TopKRouterParams& p, const Pool& pool) {
  const int tokens = larger(1, kTaskElements / p.experts);
  with_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(pool, blocks_of(p.rows, tokens), (int64_t)p.rows * p.experts * (p.k + 8), [&](size_t task) {
      void* memory = scratch((2 * (size_t)p.experts + p.groups) * sizeof(float));
      const int first = (int)task * tokens, end = smaller(first + tokens, p.rows);
      for (int row = first; row < end; ++row) route<T>(p, row, memory);
    });
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
