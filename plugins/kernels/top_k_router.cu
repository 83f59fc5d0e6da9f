// score = softmax or sigmoid of the logits;   chosen = the k largest of score + bias, equal ones in the experts' order;
// weight = scale * score[chosen], over their sum + epsilon where normalised.
// With groups of experts a token chooses among those of its kept groups, whose two best sum to the most.
//
// Parallelisation: a warp has a token, whose scores are in shared memory; lane l has the experts l, l + 32, ... In each
// of k rounds the lanes bring their best, and the lane whose expert was chosen looks for its next.
// Floor: for few tokens the latency of a launch and of k rounds; for many device memory, which reads each logit once.
#include "top_k_router.h"

#include "launch.cuh"
#include "numeric.cuh"

namespace seqexport {
namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;
constexpr unsigned kWarp = 0xffffffffu;
constexpr uint32_t kTaken = 0;  // below the rank of any number

// Numbers in their order; NaN is the largest, as PyTorch has it.
__device__ __forceinline__ uint32_t rank_of(float x) {
  const uint32_t bits = __float_as_uint(x + 0.f);  // one zero
  if (isnan(x)) return 0xffffffffu;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_rank(uint32_t rank) {
  return __uint_as_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank);
}

// The better of two places, the larger number: a rank, and below it the index from the end.
__device__ __forceinline__ uint64_t place(uint32_t rank, int index) { return uint64_t(rank) << 32 | ~uint32_t(index); }

__device__ __forceinline__ uint64_t best_of_warp(uint64_t mine) {
#pragma unroll
  for (int w = 16; w >= 1; w /= 2) {
    const uint64_t other = __shfl_xor_sync(kWarp, mine, w);
    mine = other > mine ? other : mine;
  }
  return mine;
}

// In shared memory, of one token.
struct Token {
  float* scores;    // [E]
  uint32_t* ranks;  // [E], of score + bias
  uint32_t* group_ranks;  // [G]
};

template <typename T>
__device__ void score_experts(const TopKRouterParams& p, const T* logits, const Token& token, int lane) {
  const int E = p.experts;
  float most = -INFINITY, sum = 0;
  if (p.score == SEQEXPORT_SOFTMAX) {
    for (int e = lane; e < E; e += 32) most = fmaxf(most, to_float(logits[e]));
#pragma unroll
    for (int w = 16; w >= 1; w /= 2) most = fmaxf(most, __shfl_xor_sync(kWarp, most, w));
    for (int e = lane; e < E; e += 32) sum += token.scores[e] = expf(to_float(logits[e]) - most);
#pragma unroll
    for (int w = 16; w >= 1; w /= 2) sum += __shfl_xor_sync(kWarp, sum, w);
  }
  for (int e = lane; e < E; e += 32) {
    const float score = p.score == SEQEXPORT_SOFTMAX ? token.scores[e] / sum : 1 / (1 + expf(-to_float(logits[e])));
    token.scores[e] = score;
    token.ranks[e] = rank_of(p.bias ? score + p.bias[e] : score);
  }
  __syncwarp();
}

// Experts of all but the best groups are behind any other.
__device__ void keep_groups(const TopKRouterParams& p, const Token& token, int lane) {
  const int size = p.experts / p.groups;
  for (int g = lane; g < p.groups; g += 32) {
    uint32_t best = kTaken, second = kTaken;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      const uint32_t rank = token.ranks[e];
      second = max(second, min(best, rank));
      best = max(best, rank);
    }
    token.group_ranks[g] = rank_of(size > 1 ? of_rank(best) + of_rank(second) : of_rank(best));
  }
  __syncwarp();
  for (int g = lane; g < p.groups; g += 32) {
    const uint32_t rank = token.group_ranks[g];
    int before = 0;
    for (int other = 0; other < p.groups; ++other) {
      before += token.group_ranks[other] > rank || (token.group_ranks[other] == rank && other < g);
    }
    if (before < p.kept_groups) continue;
    for (int e = g * size; e < (g + 1) * size; ++e) token.ranks[e] = rank_of(-INFINITY);
  }
  __syncwarp();
}

__device__ __forceinline__ uint64_t best_of_lane(const Token& token, int experts, int lane) {
  uint64_t best = 0;
  for (int e = lane; e < experts; e += 32) best = max(best, place(token.ranks[e], e));
  return best;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) top_k_router_kernel(TopKRouterParams p) {
  extern __shared__ float shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, E = p.experts;
  const int64_t row = int64_t(blockIdx.x) * kWarps + warp;
  wait_for_previous_kernel();
  if (row >= p.rows) return;
  float* scores = shared + warp * (2 * E + p.groups);
  const Token token = {scores, reinterpret_cast<uint32_t*>(scores) + E, reinterpret_cast<uint32_t*>(scores) + 2 * E};
  score_experts(p, static_cast<const T*>(p.logits) + row * E, token, lane);
  if (p.kept_groups < p.groups) keep_groups(p, token, lane);
  int32_t* chosen = p.chosen + row * p.k;
  float* weight = p.weight + row * p.k;
  uint64_t mine = best_of_lane(token, E, lane);
  float sum = 0;
  for (int i = 0; i < p.k; ++i) {
    const int expert = int(~uint32_t(best_of_warp(mine)));
    sum += token.scores[expert];
    if (lane == i % 32) chosen[i] = expert, weight[i] = token.scores[expert];
    if (lane != expert % 32) continue;
    token.ranks[expert] = kTaken;
    mine = best_of_lane(token, E, lane);
  }
  const float by = p.normalised ? sum + p.epsilon : 1;
  for (int i = lane; i < p.k; i += 32) weight[i] = weight[i] / by * p.scale;
}

}  // namespace

cudaError_t top_k_router(const TopKRouterParams& p, cudaStream_t stream) {
  return with_type(p.dtype, [&](auto zero) {
    const size_t shared_bytes = kWarps * (2 * size_t(p.experts) + p.groups) * sizeof(float);
    return launch(top_k_router_kernel<decltype(zero)>, unsigned(ceil_div(p.rows, kWarps)), kThreads, shared_bytes,
                  stream, p);
  });
}

}  // namespace seqexport
