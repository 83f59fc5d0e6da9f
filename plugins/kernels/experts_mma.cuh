// The products of many tokens on tensor cores (sm_80 and later, 16 bits, rows of whole vectors): four warps, each 32
// pairs by 32 features of both halves; tiles of both factors come through shared memory, kStages at a time.
#pragma once

#include "experts_product.cuh"
#include "mma.cuh"

namespace seqexport {
namespace experts_mma {

constexpr int kHalf = 64, kDepth = 64, kStages = 3, kThreads = 128;
constexpr int kRowChunks = kDepth / 8;  // of 16 bytes
constexpr int kRows = kTileRows + 2 * kHalf;
constexpr size_t kSharedBytes = size_t(kStages) * kRows * kDepth * 2;

// A chunk's place among those of its row keeps the eight rows that ldmatrix reads at once in different banks.
template <typename T>
__device__ __forceinline__ T* chunk_at(T* rows, int row, int chunk) {
  return rows + row * kDepth + (chunk ^ (row % 8)) * 8;
}

template <typename T, ExpertProduct kProduct>
struct Block {
  static constexpr int kLoads = kRows * kRowChunks / kThreads, kRowStep = kThreads / kRowChunks;
  const ExpertOperands<T, kProduct>& operands;
  T* stages;
  const T* sources[kLoads];  // this thread's rows: kTileRows / kRowStep of pairs, then of weights; null past the end

  __device__ Block(const ExpertOperands<T, kProduct>& operands, T* stages) : operands(operands), stages(stages) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int row = threadIdx.x / kRowChunks + i * kRowStep, n = row - kTileRows;
      if (row < kTileRows) {
        const int pair = operands.tile.first + row;
        sources[i] = pair < operands.tile.end ? operands.row(pair) : nullptr;
      } else {
        const int feature = operands.first_feature(blockIdx.x, n / kHalf, kHalf) + n % kHalf;
        sources[i] = feature < operands.features() ? operands.weights(n / kHalf, feature) : nullptr;
      }
    }
  }

  __device__ __forceinline__ T* stage(int step) const { return stages + step % kStages * (kRows * kDepth); }

  __device__ __forceinline__ void load(int step) const {
    const int chunk = threadIdx.x % kRowChunks, k = step * kDepth + chunk * 8;
    const bool is_inside = k < operands.depth();
    T* const rows = stage(step);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const bool valid = is_inside && sources[i];
      copy_async_16(chunk_at(rows, threadIdx.x / kRowChunks + i * kRowStep, chunk),
                    valid ? sources[i] + k : static_cast<const T*>(operands.p.x), valid);
    }
  }
};

// sums[rows of 16][half][features of 8] of this warp.
using Sums = float[2][2][4][4];

template <typename T>
__device__ __forceinline__ void multiply(Sums& sums, T* rows) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int first_row = warp % 2 * 32 + lane % 16, first_feature = kTileRows + warp / 2 * 32 + lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int k = 0; k < kRowChunks; k += 2) {
    uint32_t a[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) load_matrix_x4(a[i], chunk_at(rows, first_row + i * 16, k + lane / 16));
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t b[4];
        load_matrix_x4(b, chunk_at(rows, first_feature + half * kHalf + pair * 16, k + lane / 8 % 2));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma<T>(sums[i][half][2 * pair], a[i], b[0], b[1]);
          mma<T>(sums[i][half][2 * pair + 1], a[i], b[2], b[3]);
        }
      }
    }
  }
}

template <typename T, ExpertProduct kProduct>
__global__ void __launch_bounds__(kThreads) product_kernel(ExpertsParams p, ManyPairs<T> many) {
  extern __shared__ uint4 shared[];
  wait_for_previous_kernel();
  if (int(blockIdx.y) >= *many.sorted.tile_count) return;
  const ExpertOperands<T, kProduct> operands{p, many, many.sorted.tiles[blockIdx.y]};
  const Block<T, kProduct> block(operands, reinterpret_cast<T*>(shared));
  const int steps = ceil_div(operands.depth(), kDepth);
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) block.load(step);
    copy_async_commit();
  }
  Sums sums = {};
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    if (step + kStages - 1 < steps) block.load(step + kStages - 1);
    copy_async_commit();
    multiply<T>(sums, block.stage(step));
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int pair = operands.tile.first + warp % 2 * 32 + i * 16 + r * 8 + lane / 4;
      if (pair >= operands.tile.end) continue;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const int feature = warp / 2 * 32 + n * 8 + lane % 4 * 2;
        operands.template finish<2>(pair, operands.first_feature(blockIdx.x, 0, kHalf) + feature,
                                    operands.first_feature(blockIdx.x, 1, kHalf) + feature, &sums[i][0][n][2 * r],
                                    &sums[i][1][n][2 * r]);
      }
    }
  }
}

// Not for a device before sm_80, or PTX of one.
inline bool is_compiled() { return compiled_architecture(product_kernel<Bfloat16, ExpertProduct::kDown>) >= 80; }

template <typename T, ExpertProduct kProduct>
cudaError_t multiply(const ExpertsParams& p, const ManyPairs<T>& many, int tiles, cudaStream_t stream) {
  const int features = kProduct == ExpertProduct::kDown ? p.channels : p.hidden;
  const dim3 grid(unsigned(ceil_div(features, ExpertOperands<T, kProduct>::width(kHalf))), unsigned(tiles));
  return launch(product_kernel<T, kProduct>, grid, kThreads, kSharedBytes, stream, p, many);
}

}  // namespace experts_mma
}  // namespace seqexport
