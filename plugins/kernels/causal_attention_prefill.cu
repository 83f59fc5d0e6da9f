// Attention of many query tokens on tensor cores, fp16 and bf16 (FlashAttention-2; Dao 2023,
// https://arxiv.org/abs/2307.08691).
//
// Parallelisation: a block takes kRows query tokens of one head and walks over the keys they see in tiles of kKeys,
// softmax online in registers. K of the next tile arrives while this tile's P V runs, V while Q K^T runs.
// Blocks with the most keys start first. The first head of each group writes the block's tokens to the cache.
// Floor: 2 * (Dh + Dv) multiply-adds per visible (query, key) on the tensor cores.
#include "causal_attention_kernels.h"
#include "launch.cuh"
#include "mma.cuh"

namespace seqexport {
namespace {

template <typename T_, int kDim_>
struct PrefillTraits {
  using T = T_;
  static constexpr int kDim = kDim_;  // key_dim and value_dim rounded up
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTiles = kDim <= 128 ? 2 : 1;  // 16-row tiles a warp
  static constexpr int kRows = 16 * kTiles * kWarps;
  static constexpr int kKeys = kDim <= 128 ? 64 : 32;
  static constexpr int kPitch = kDim + 8;  // an odd number of 16-byte vectors: ldmatrix without bank conflicts

  struct Shared {
    alignas(16) T q[kRows][kPitch];
    alignas(16) T k[kKeys][kPitch];
    alignas(16) T v[kKeys][kPitch];
  };
};

// This call's query rows [0, kRows) from `query`, zeros from row `rows` and column `width` on.
template <typename Traits>
__device__ __forceinline__ void copy_query(typename Traits::Shared& shared, const typename Traits::T* query,
                                           int64_t stride, int rows, int width) {
  constexpr int kVectors = Traits::kDim / 8;
#pragma unroll 4
  for (int i = threadIdx.x; i < Traits::kRows * kVectors; i += Traits::kThreads) {
    const int r = i / kVectors, c = i % kVectors * 8;
    copy_async_16(&shared.q[r][c], query + r * stride + c, r < rows && c < width);
  }
}

template <typename Traits>
struct PrefillWarp {
  using T = typename Traits::T;
  static constexpr int kTiles = Traits::kTiles, kKeyTiles = Traits::kKeys / 8, kDimTiles = Traits::kDim / 8;

  float out[kTiles][kDimTiles][4] = {};
  float score[kTiles][kKeyTiles][4];
  float row_max[kTiles][2], row_sum[kTiles][2];

  __device__ __forceinline__ PrefillWarp() {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
      row_max[m][0] = row_max[m][1] = -INFINITY;
      row_sum[m][0] = row_sum[m][1] = 0.f;
    }
  }

  // score = Q K^T
  __device__ __forceinline__ void multiply_keys(const typename Traits::Shared& shared, int row0, int lane) {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) score[m][n][0] = score[m][n][1] = score[m][n][2] = score[m][n][3] = 0.f;
    }
#pragma unroll
    for (int k = 0; k < Traits::kDim; k += 16) {
      uint32_t q[kTiles][4];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
        load_matrix_x4(q[m], &shared.q[row0 + 16 * m + lane % 16][k + lane / 16 * 8]);
      }
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        uint32_t b[4];
        load_matrix_x4(b, &shared.k[8 * n + lane % 8 + lane / 16 * 8][k + lane / 8 % 2 * 8]);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          mma<T>(score[m][n], q[m], b[0], b[1]);
          mma<T>(score[m][n + 1], q[m], b[2], b[3]);
        }
      }
    }
  }

  // `query0` and `key0` are the key positions of the warp's first query and of the tile's first key.
  __device__ __forceinline__ void mask(int query0, int key0, int window, int lane) {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int query = query0 + 16 * m + lane / 4 + i / 2 * 8, key = key0 + 8 * n + lane % 4 * 2 + i % 2;
          if (!sees(query, key, window)) score[m][n][i] = -INFINITY;
        }
      }
    }
  }

  __device__ __forceinline__ void cap(const ScoreScale& scale) {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) score[m][n][i] = tanh_approx(scale.inner * score[m][n][i]);
      }
    }
  }

  // Turns scores into exp2(factor * (score - max)) and rescales what was summed under the old maximum.
  __device__ __forceinline__ void softmax(float factor) {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float shrink = softmax_row(m, half, factor);
#pragma unroll
        for (int n = 0; n < kDimTiles; ++n) {
          out[m][n][2 * half] *= shrink;
          out[m][n][2 * half + 1] *= shrink;
        }
      }
    }
  }

  // Returns the factor on earlier sums.
  __device__ __forceinline__ float softmax_row(int m, int half, float factor) {
    float top = row_max[m][half];
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) top = fmaxf(top, fmaxf(score[m][n][2 * half], score[m][n][2 * half + 1]));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    const float base = top == -INFINITY ? 0.f : top * factor;
    const float shrink = exp2_approx(fmaf(row_max[m][half], factor, -base));
    row_max[m][half] = top;
    float sum = 0.f;
#pragma unroll
    for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        score[m][n][i] = exp2_approx(fmaf(score[m][n][i], factor, -base));
        sum += score[m][n][i];
      }
    }
    row_sum[m][half] = fmaf(row_sum[m][half], shrink, sum);
    return shrink;
  }

  // out += P V
  __device__ __forceinline__ void multiply_values(const typename Traits::Shared& shared, int lane) {
#pragma unroll
    for (int k = 0; k < kKeyTiles; k += 2) {
      uint32_t p[kTiles][4];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          p[m][i] = pack_pair<T>(score[m][k + i / 2][i % 2 * 2], score[m][k + i / 2][i % 2 * 2 + 1]);
        }
      }
#pragma unroll
      for (int n = 0; n < kDimTiles; n += 2) {
        uint32_t b[4];
        load_matrix_x4_transposed(b, &shared.v[8 * k + lane % 16][8 * n + lane / 16 * 8]);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          mma<T>(out[m][n], p[m], b[0], b[1]);
          mma<T>(out[m][n + 1], p[m], b[2], b[3]);
        }
      }
    }
  }

  // Rows [t, length) of y[.., stride]; zeros for tokens at or past len.
  __device__ __forceinline__ void store(T* y, int64_t stride, int t, int len, int length, int width, int lane) {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float sum = row_sum[m][half];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const int row = t + 16 * m + 8 * half + lane / 4;
        const float inverse = row < len ? 1.f / sum : 0.f;
        if (row >= length) continue;
#pragma unroll
        for (int n = 0; n < kDimTiles; ++n) {
          const int c = 8 * n + lane % 4 * 2;
          const float lo = row < len ? out[m][n][2 * half] * inverse : 0.f;
          const float hi = row < len ? out[m][n][2 * half + 1] * inverse : 0.f;
          if (c < width) store_pair(y + row * stride + c, lo, hi);
        }
      }
    }
  }
};

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads) prefill_kernel(CausalAttentionParams p) {
  using T = typename Traits::T;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename Traits::Shared*>(shared_bytes);
  const int t0 = (gridDim.x - 1 - blockIdx.x) * Traits::kRows, head = blockIdx.y, b = blockIdx.z;
  const int group = p.query_heads / p.kv_heads, lane = threadIdx.x % 32;
  const int row0 = threadIdx.x / 32 * 16 * Traits::kTiles;
  const KeyValueRows<T> rows(p, b, head / group);
  PrefillWarp<Traits> warp;

  if (t0 < rows.len) {
    const KeyRange keys(rows.past, t0, min(t0 + Traits::kRows, rows.len) - 1, p.window, 0, 1, Traits::kKeys);
    const int total = rows.total();
    const T* query = static_cast<const T*>(p.query) + (int64_t(b) * p.length + t0) * p.query_stride + head * p.key_dim;
    const auto copy_keys = [&](int k0) {
      rows.template copy_keys<Traits::kKeys, Traits::kDim, Traits::kThreads>(shared.k, k0, total, threadIdx.x);
      copy_async_commit();
    };
    const auto copy_values = [&](int k0) {
      rows.template copy_values<Traits::kKeys, Traits::kDim, Traits::kThreads>(shared.v, k0, total, threadIdx.x);
      copy_async_commit();
    };
    copy_query<Traits>(shared, query, p.query_stride, rows.len - t0, p.key_dim);
    copy_keys(keys.first);
    const ScoreScale scale(p);

    for (int k0 = keys.first; k0 < keys.last; k0 += Traits::kKeys) {
      copy_async_wait<0>();
      __syncthreads();
      copy_values(k0);
      warp.multiply_keys(shared, row0, lane);
      copy_async_wait<0>();
      __syncthreads();
      if (k0 + Traits::kKeys < keys.last) copy_keys(k0 + Traits::kKeys);
      if (scale.capped) warp.cap(scale);
      const int query0 = rows.past + t0 + row0;
      const bool all_seen = k0 + Traits::kKeys - 1 <= query0 &&
                            (p.window == 0 || k0 > query0 + 16 * Traits::kTiles - 1 - p.window);
      if (!all_seen) warp.mask(query0, k0, p.window, lane);
      warp.softmax(scale.outer);
      warp.multiply_values(shared, lane);
    }
    if (head % group == 0) rows.template write_cache<8>(t0, t0 + Traits::kRows, p.capacity);
  }
  T* y = static_cast<T*>(p.y) + (int64_t(b) * p.length * p.query_heads + head) * p.value_dim;
  warp.store(y, int64_t(p.query_heads) * p.value_dim, t0 + row0, rows.len, p.length, p.value_dim, lane);
}

template <typename T, int kDim>
cudaError_t launch_prefill(const CausalAttentionParams& p, cudaStream_t stream) {
  using Traits = PrefillTraits<T, kDim>;
  const dim3 grid(ceil_div(p.length, Traits::kRows), p.query_heads, p.batch);
  return launch(prefill_kernel<Traits>, grid, Traits::kThreads, sizeof(typename Traits::Shared), stream, p);
}

template <typename T>
cudaError_t dispatch_dim(const CausalAttentionParams& p, cudaStream_t stream) {
  const int dim = p.key_dim > p.value_dim ? p.key_dim : p.value_dim;
  return dim <= 32   ? launch_prefill<T, 32>(p, stream)
         : dim <= 64 ? launch_prefill<T, 64>(p, stream)
         : dim <= 96 ? launch_prefill<T, 96>(p, stream)
         : dim <= 128 ? launch_prefill<T, 128>(p, stream)
                      : launch_prefill<T, 256>(p, stream);
}

}  // namespace

bool causal_attention_has_tensor_cores() {
  return compiled_architecture(prefill_kernel<PrefillTraits<Bfloat16, 64>>) >= 80;
}

cudaError_t causal_attention_prefill(const CausalAttentionParams& p, cudaStream_t stream) {
  return p.dtype == SEQEXPORT_FLOAT16 ? dispatch_dim<__half>(p, stream) : dispatch_dim<Bfloat16>(p, stream);
}

}  // namespace seqexport
