// Pairs of a token and an expert that it chose, brought into the order of the experts, in two launches whose results
// are the same every time:
//   1. a block for each expert counts the pairs of experts before it, and writes its own where they belong;
//   2. one block lists the tiles: each expert's pairs, kTileRows at a time.
#pragma once

#include <algorithm>

#include "experts_activation.cuh"
#include "launch.cuh"

namespace seqexport {

constexpr int kTileRows = 64;

// Up to kTileRows pairs, first..end, all of one expert.
struct Tile {
  int expert, first, end;
};

// In the workspace. Pairs of no expert are left out.
struct SortedPairs {
  int* starts;      // [E + 1], the first pair of each expert
  int* order;       // [M k], token * k + choice
  Tile* tiles;      // [tiles_most]
  int* tile_count;  // [1]
};

inline int tiles_most(int pairs, int experts) { return pairs / kTileRows + std::min(pairs, experts); }

constexpr int kSortThreads = 512, kSortWarps = kSortThreads / 32;

// The sum of the threads before this one, and that of all in `total`.
__device__ __forceinline__ int sum_before(int value, int* shared, int& total) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  int sum = value;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, by);
    if (lane >= by) sum += other;
  }
  if (lane == 31) shared[warp] = sum;
  __syncthreads();
  int before = 0;
  total = 0;
  for (int i = 0; i < warps; ++i) {
    if (i < warp) before += shared[i];
    total += shared[i];
  }
  __syncthreads();
  return before + sum - value;
}

// 1. A thread has neighbouring pairs, so that the order within an expert is theirs.
__global__ void __launch_bounds__(kSortThreads) sort_kernel(ExpertsParams p, SortedPairs sorted) {
  __shared__ int shared[kSortWarps];
  wait_for_previous_kernel();
  const int pairs = p.rows * p.choices, each = ceil_div(pairs, kSortThreads), expert = blockIdx.x;
  const int first = min(int(threadIdx.x) * each, pairs), end = min(first + each, pairs);
  int less = 0, own = 0;
#pragma unroll 8
  for (int i = first; i < end; ++i) {
    const int chosen = p.chosen[i];
    less += chosen >= 0 && chosen < expert;
    own += chosen == expert;
  }
  int start, count;
  sum_before(less, shared, start);
  int at = start + sum_before(own, shared, count);
  if (threadIdx.x == 0) sorted.starts[expert] = start;
  if (threadIdx.x == 0 && expert == p.experts - 1) sorted.starts[p.experts] = start + count;
  if (own == 0) return;
  for (int i = first; i < end; ++i) {
    if (p.chosen[i] == expert) sorted.order[at++] = i;
  }
}

// 2.
__global__ void __launch_bounds__(kExpertsMost) tile_kernel(ExpertsParams p, SortedPairs sorted) {
  __shared__ int shared[kExpertsMost / 32];
  wait_for_previous_kernel();
  const int expert = threadIdx.x;
  int start = 0, end = 0, total;
  if (expert < p.experts) start = sorted.starts[expert], end = sorted.starts[expert + 1];
  int at = sum_before(ceil_div(end - start, kTileRows), shared, total);
  for (; start < end; start += kTileRows) sorted.tiles[at++] = {expert, start, min(start + kTileRows, end)};
  if (expert == 0) *sorted.tile_count = total;
}

inline cudaError_t sort_pairs(const ExpertsParams& p, const SortedPairs& sorted, cudaStream_t stream) {
  const cudaError_t e = launch(sort_kernel, unsigned(p.experts), kSortThreads, 0, stream, p, sorted);
  if (e != cudaSuccess) return e;
  return launch(tile_kernel, 1, kExpertsMost, 0, stream, p, sorted);
}

}  // namespace seqexport
