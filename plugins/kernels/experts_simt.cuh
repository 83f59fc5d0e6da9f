// The products of many tokens without tensor cores: float32, devices before sm_80, and rows that are no whole vectors.
// A thread has 8 pairs by 2 features of both halves. Sums over kRun of the depth are added up, so that their error does
// not grow with all of it.
#pragma once

#include "experts_product.cuh"

namespace seqexport {
namespace experts_simt {

constexpr int kHalf = 32, kDepth = 16, kThreads = 128;
constexpr int kRun = 8 * kDepth;
constexpr int kPairs = 8, kColumns = 2;  // of a thread
constexpr int kStride = kTileRows + 4;   // of a row of depth, aligned to 16 bytes
static_assert(2 * kHalf == kTileRows, "both factors are tiles of one shape");

constexpr int kLoads = kTileRows * kDepth / kThreads, kRowStep = kThreads / kDepth;

// This thread's part of a tile of kTileRows rows: element `threadIdx.x % kDepth` of rows that lie kRowStep apart.
template <typename T>
struct Rows {
  const T* rows[kLoads];  // null past the end

  template <typename Row>
  __device__ explicit Rows(const Row& row) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) rows[i] = row(threadIdx.x / kDepth + i * kRowStep);
  }
  // Elements first..first + kDepth, with the depth outermost.
  __device__ __forceinline__ void load(float (&into)[kDepth][kStride], int first, int depth) const {
    const int k = threadIdx.x % kDepth;
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const bool valid = rows[i] && first + k < depth;
      into[k][threadIdx.x / kDepth + i * kRowStep] = valid ? to_float(rows[i][first + k]) : 0.f;
    }
  }
};

__device__ __forceinline__ void add_and_clear(float (&sums)[kPairs][2][kColumns], float (&run)[kPairs][2][kColumns]) {
#pragma unroll
  for (int m = 0; m < kPairs; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sums[m][half][i] += run[m][half][i], run[m][half][i] = 0.f;
    }
  }
}

template <typename T, ExpertProduct kProduct>
__global__ void __launch_bounds__(kThreads) product_kernel(ExpertsParams p, ManyPairs<T> many) {
  __shared__ __align__(16) float a[kDepth][kStride], b[kDepth][kStride];
  wait_for_previous_kernel();
  if (int(blockIdx.y) >= *many.sorted.tile_count) return;
  const ExpertOperands<T, kProduct> operands{p, many, many.sorted.tiles[blockIdx.y]};
  const int first_pair = threadIdx.x / (kHalf / kColumns) * kPairs;
  const int column = threadIdx.x % (kHalf / kColumns) * kColumns;
  float sums[kPairs][2][kColumns] = {}, run[kPairs][2][kColumns] = {};
  const Rows<T> rows([&](int r) -> const T* {
    const int pair = operands.tile.first + r;
    return pair < operands.tile.end ? operands.row(pair) : nullptr;
  });
  const Rows<T> weights([&](int r) -> const T* {
    const int feature = operands.first_feature(blockIdx.x, r / kHalf, kHalf) + r % kHalf;
    return feature < operands.features() ? operands.weights(r / kHalf, feature) : nullptr;
  });
  for (int k = 0; k < operands.depth(); k += kDepth) {
    rows.load(a, k, operands.depth());
    weights.load(b, k, operands.depth());
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kDepth; ++i) {
      float pairs[kPairs];
      load_vector(&a[i][first_pair], pairs);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 pair = load_pair(&b[i][half * kHalf + column]);
#pragma unroll
        for (int m = 0; m < kPairs; ++m) {
          run[m][half][0] = fmaf(pairs[m], pair.x, run[m][half][0]);
          run[m][half][1] = fmaf(pairs[m], pair.y, run[m][half][1]);
        }
      }
    }
    __syncthreads();
    if ((k + kDepth) % kRun == 0 || k + kDepth >= operands.depth()) add_and_clear(sums, run);
  }
#pragma unroll
  for (int m = 0; m < kPairs; ++m) {
    const int pair = operands.tile.first + first_pair + m;
    if (pair >= operands.tile.end) continue;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      operands.template finish<1>(pair, operands.first_feature(blockIdx.x, 0, kHalf) + column + i,
                                  operands.first_feature(blockIdx.x, 1, kHalf) + column + i, &sums[m][0][i],
                                  &sums[m][1][i]);
    }
  }
}

template <typename T, ExpertProduct kProduct>
cudaError_t multiply(const ExpertsParams& p, const ManyPairs<T>& many, int tiles, cudaStream_t stream) {
  const int features = kProduct == ExpertProduct::kDown ? p.channels : p.hidden;
  const dim3 grid(unsigned(ceil_div(features, ExpertOperands<T, kProduct>::width(kHalf))), unsigned(tiles));
  return launch(product_kernel<T, kProduct>, grid, kThreads, 0, stream, p, many);
}

}  // namespace experts_simt
}  // namespace seqexport
