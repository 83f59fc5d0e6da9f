// Attention of few query tokens over many keys on tensor cores, fp16 and bf16 (flash-decoding).
//
// Parallelisation: the (token, head) rows of one kv head are packed into 16-row tiles, so that a group's heads share
// one read of the cache; the keys are split over blocks, and in a block 16 at a time over its warps, each with its own
// ring of asynchronous copies and its own softmax. The warps merge in shared memory, the splits in `combine`.
// The first split of each kv head writes the new tokens to the cache.
// Floor: device memory, the cache read once.
#include "causal_attention_kernels.h"
#include "launch.cuh"
#include "mma.cuh"

namespace seqexport {
namespace {

template <typename T_, int kDim_>
struct DecodeTraits {
  using T = T_;
  static constexpr int kDim = kDim_;  // key_dim and value_dim rounded up
  static constexpr int kWarps = kDim <= 128 ? 4 : 2;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kStages = kDim <= 64 ? 4 : (kDim <= 96 ? 3 : 2);
  static constexpr int kKeys = 16;         // of a warp and stage
  static constexpr int kPitch = kDim + 8;  // an odd number of 16-byte vectors: ldmatrix without bank conflicts

  struct Stage {
    alignas(16) T k[kKeys][kPitch];
    alignas(16) T v[kKeys][kPitch];
  };
  struct Partial {
    float out[kPackedRows][kDim];
    float2 norm[kPackedRows];
  };
  union Shared {
    Stage ring[kWarps][kStages];
    Partial partial[kWarps];
  };
};

// Packed row r of a kv head: token r / group, head of the group r % group.
struct PackedRows {
  int first, count, group;  // of this tile; rows with valid tokens

  __device__ __forceinline__ int token(int r) const { return (first + r) / group; }
  __device__ __forceinline__ int head(int r) const { return (first + r) % group; }
};

template <typename Traits>
struct DecodeWarp {
  using T = typename Traits::T;
  static constexpr int kDimTiles = Traits::kDim / 8;

  uint32_t q[Traits::kDim / 16][4];
  float out[kDimTiles][4] = {};
  float row_max[2] = {-INFINITY, -INFINITY}, row_sum[2] = {0.f, 0.f};

  __device__ __forceinline__ void load_query(const CausalAttentionParams& p, const PackedRows& packed, int b,
                                             int kv_head, int lane) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = lane / 4 + i % 2 * 8;
      const T* row = static_cast<const T*>(p.query) +
                     (int64_t(b) * p.length + packed.token(r)) * p.query_stride +
                     (kv_head * packed.group + packed.head(r)) * p.key_dim;
#pragma unroll
      for (int k = 0; k < Traits::kDim / 16; ++k) {
        const int c = 16 * k + lane % 4 * 2 + i / 2 * 8;
        q[k][i] = r < packed.count && c < p.key_dim ? *reinterpret_cast<const uint32_t*>(row + c) : 0u;
      }
    }
  }

  __device__ __forceinline__ void copy_stage(typename Traits::Stage& stage, const KeyValueRows<T>& rows, int k0,
                                             int last, int lane) {
    rows.template copy_keys<Traits::kKeys, Traits::kDim, 32>(stage.k, k0, last, lane);
    rows.template copy_values<Traits::kKeys, Traits::kDim, 32>(stage.v, k0, last, lane);
  }

  // Keys [k0, k0 + kKeys) of a stage; `query` holds the key positions of this lane's two queries, `first_query` and
  // `last_query` those of the whole tile.
  __device__ __forceinline__ void attend(const typename Traits::Stage& stage, const ScoreScale& scale, int window,
                                         const int (&query)[2], int first_query, int last_query, int k0, int lane) {
    float score[2][4] = {};
#pragma unroll
    for (int k = 0; k < Traits::kDim / 16; ++k) {
      uint32_t b[4];
      load_matrix_x4(b, &stage.k[lane % 8 + lane / 16 * 8][16 * k + lane / 8 % 2 * 8]);
      mma<T>(score[0], q[k], b[0], b[1]);
      mma<T>(score[1], q[k], b[2], b[3]);
    }
    if (scale.capped) {
#pragma unroll
      for (int i = 0; i < 8; ++i) score[i / 4][i % 4] = tanh_approx(scale.inner * score[i / 4][i % 4]);
    }
    if (k0 + Traits::kKeys - 1 > first_query || (window > 0 && k0 <= last_query - window)) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int key = k0 + i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (!sees(query[i / 2 % 2], key, window)) score[i / 4][i % 4] = -INFINITY;
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* const low = &score[0][2 * half];
      float* const high = &score[1][2 * half];
      float top = fmaxf(fmaxf(low[0], low[1]), fmaxf(high[0], high[1]));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      top = fmaxf(top * scale.outer, row_max[half]);
      const float base = top == -INFINITY ? 0.f : top;
      const float shrink = exp2_approx(row_max[half] - base);
      row_max[half] = top;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        low[i] = softmax_weight(low[i], scale.outer, base);
        high[i] = softmax_weight(high[i], scale.outer, base);
      }
      row_sum[half] = fmaf(row_sum[half], shrink, low[0] + low[1] + high[0] + high[1]);
#pragma unroll
      for (int n = 0; n < kDimTiles; ++n) {
        out[n][2 * half] *= shrink;
        out[n][2 * half + 1] *= shrink;
      }
    }
    const uint32_t prob[4] = {pack_pair<T>(score[0][0], score[0][1]), pack_pair<T>(score[0][2], score[0][3]),
                              pack_pair<T>(score[1][0], score[1][1]), pack_pair<T>(score[1][2], score[1][3])};
#pragma unroll
    for (int n = 0; n < kDimTiles; n += 2) {
      uint32_t b[4];
      load_matrix_x4_transposed(b, &stage.v[lane % 16][8 * n + lane / 16 * 8]);
      mma<T>(out[n], prob, b[0], b[1]);
      mma<T>(out[n + 1], prob, b[2], b[3]);
    }
  }

  __device__ __forceinline__ void store(typename Traits::Partial& partial, int lane) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = lane / 4 + 8 * half;
      float sum = row_sum[half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      partial.norm[r] = make_float2(row_max[half], sum);
#pragma unroll
      for (int n = 0; n < kDimTiles; ++n) {
        store_pair(&partial.out[r][8 * n + lane % 4 * 2], out[n][2 * half], out[n][2 * half + 1]);
      }
    }
  }
};

// Merges the warps of a block; writes y where there is one split, else the split's result.
template <typename Traits>
__device__ __forceinline__ void merge_warps(const typename Traits::Partial (&partial)[Traits::kWarps],
                                            const CausalAttentionParams& p, const SplitResults& results,
                                            const PackedRows& packed, int b, int kv_head, int split, int len) {
  using T = typename Traits::T;
  const int tile_rows = min(kPackedRows, p.length * packed.group - packed.first);
  for (int i = threadIdx.x; i < tile_rows * p.value_dim; i += Traits::kThreads) {
    const int r = i / p.value_dim, c = i % p.value_dim;
    float top = -INFINITY, sum = 0.f, out = 0.f;
#pragma unroll
    for (int w = 0; w < Traits::kWarps; ++w) top = fmaxf(top, partial[w].norm[r].x);
#pragma unroll
    for (int w = 0; w < Traits::kWarps; ++w) {
      const float2 norm = partial[w].norm[r];
      const float weight = norm.y > 0.f ? exp2_approx(norm.x - top) : 0.f;
      sum = fmaf(weight, norm.y, sum);
      out = fmaf(weight, partial[w].out[r][c], out);
    }
    const int64_t row =
        (int64_t(b) * p.length + packed.token(r)) * p.query_heads + kv_head * packed.group + packed.head(r);
    if (results.splits == 1) {
      const bool valid = packed.token(r) < len;
      static_cast<T*>(p.y)[row * p.value_dim + c] = from_float<T>(valid ? out / sum : 0.f);
    } else {
      const int64_t slot = split * results.rows + row;
      results.values[slot * p.value_dim + c] = out;
      if (c == 0) results.norms[slot] = make_float2(top, sum);
    }
  }
}

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads) decode_kernel(CausalAttentionParams p, SplitResults results) {
  using T = typename Traits::T;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename Traits::Shared*>(shared_bytes);
  const int split = blockIdx.x, kv_head = blockIdx.y % p.kv_heads, b = blockIdx.z;
  const int lane = threadIdx.x % 32, warp_index = threadIdx.x / 32;
  constexpr int kStride = Traits::kWarps * Traits::kKeys;
  wait_for_previous_kernel();
  const KeyValueRows<T> rows(p, b, kv_head);
  PackedRows packed;
  packed.group = p.query_heads / p.kv_heads;
  packed.first = blockIdx.y / p.kv_heads * kPackedRows;
  packed.count = min(kPackedRows, rows.len * packed.group - packed.first);
  DecodeWarp<Traits> warp;

  if (packed.count > 0) {
    const KeyRange keys(rows.past, packed.token(0), packed.token(packed.count - 1), p.window, split, results.splits,
                        Traits::kKeys);
    const int k_begin = keys.first + warp_index * Traits::kKeys;
    auto& ring = shared.ring[warp_index];
#pragma unroll
    for (int i = 0; i < Traits::kStages - 1; ++i) {
      if (k_begin + i * kStride < keys.last) warp.copy_stage(ring[i], rows, k_begin + i * kStride, keys.last, lane);
      copy_async_commit();
    }
    warp.load_query(p, packed, b, kv_head, lane);
    if (split == 0 && packed.first == 0) rows.template write_cache<8>(0, rows.len, p.capacity);
    const ScoreScale scale(p);
    const int first_query = rows.past + packed.token(0), last_query = rows.past + packed.token(packed.count - 1);
    const int query[2] = {rows.past + packed.token(lane / 4), rows.past + packed.token(lane / 4 + 8)};
    int stage = 0;
    for (int k0 = k_begin; k0 < keys.last; k0 += kStride) {
      copy_async_wait<Traits::kStages - 2>();
      __syncwarp();
      const int ahead = k0 + (Traits::kStages - 1) * kStride;
      const int free_stage = stage == 0 ? Traits::kStages - 1 : stage - 1;
      if (ahead < keys.last) warp.copy_stage(ring[free_stage], rows, ahead, keys.last, lane);
      copy_async_commit();
      warp.attend(ring[stage], scale, p.window, query, first_query, last_query, k0, lane);
      stage = stage == Traits::kStages - 1 ? 0 : stage + 1;
    }
    copy_async_wait<0>();
    __syncthreads();
  }
  warp.store(shared.partial[warp_index], lane);
  __syncthreads();
  merge_warps<Traits>(shared.partial, p, results, packed, b, kv_head, split, rows.len);
}

template <typename T, int kDim>
cudaError_t launch_decode(const CausalAttentionParams& p, const SplitResults& results, cudaStream_t stream) {
  using Traits = DecodeTraits<T, kDim>;
  static_assert(sizeof(typename Traits::Shared) <= kTensorCoreBytes, "devices with less take the fp32 units");
  const int tiles = ceil_div(p.length * (p.query_heads / p.kv_heads), kPackedRows);
  const dim3 grid(results.splits, p.kv_heads * tiles, p.batch);
  return launch(decode_kernel<Traits>, grid, Traits::kThreads, sizeof(typename Traits::Shared), stream, p, results);
}

template <typename T>
cudaError_t dispatch_dim(const CausalAttentionParams& p, const SplitResults& results, cudaStream_t stream) {
  const int dim = p.key_dim > p.value_dim ? p.key_dim : p.value_dim;
  return dim <= 32   ? launch_decode<T, 32>(p, results, stream)
         : dim <= 64 ? launch_decode<T, 64>(p, results, stream)
         : dim <= 96 ? launch_decode<T, 96>(p, results, stream)
         : dim <= 128 ? launch_decode<T, 128>(p, results, stream)
                      : launch_decode<T, 256>(p, results, stream);
}

}  // namespace

cudaError_t causal_attention_decode(const CausalAttentionParams& p, const SplitResults& results, cudaStream_t stream) {
  return p.dtype == SEQEXPORT_FLOAT16 ? dispatch_dim<__half>(p, results, stream)
                                      : dispatch_dim<Bfloat16>(p, results, stream);
}

}  // namespace seqexport
