// Attention in fp32 arithmetic for any type, layout and device: fp32 models, and fp16 or bf16 where there are no
// tensor cores for them (before sm_80) or rows are not whole 16-byte vectors.
//
// Parallelisation: as the decode kernel, (token, head) rows of one kv head in tiles of 16, keys split over blocks.
// A warp takes 4 rows. Per tile of 32 keys each lane computes the scores of one key; then each lane owns every 32nd
// value column. Floor: Dh + Dv multiply-adds per visible (query, key), fed from shared memory.
#include "causal_attention_kernels.h"
#include "launch.cuh"

namespace seqexport {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kKeys = 32;
constexpr int kRows = kPackedRows / kWarps;  // of a warp

// A tile of keys and one of values; wide ones take turns in the same memory, which sm_75 has 64 KB of.
template <int kDim>
struct SimtTiles {
  alignas(16) float k[kKeys][kDim + 4];
  alignas(16) float v[kKeys][kDim];
};
template <>
struct SimtTiles<256> {
  union {
    alignas(16) float k[kKeys][256 + 4];
    alignas(16) float v[kKeys][256];
  };
};

template <int kDim>
struct SimtShared {
  static constexpr bool kTakeTurns = sizeof(SimtTiles<kDim>) < sizeof(float) * kKeys * (2 * kDim + 4);
  alignas(16) float q[kPackedRows][kDim];
  alignas(16) SimtTiles<kDim> tiles;
  alignas(16) float prob[kPackedRows][kKeys];
};
static_assert(sizeof(SimtShared<256>) <= 64 * 1024 && sizeof(SimtShared<128>) <= 64 * 1024, "sm_75 has no more");

template <typename T, int kDim>
struct SimtBlock {
  const CausalAttentionParams& p;
  SimtShared<kDim>& shared;
  const KeyValueRows<T>& rows;
  const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * kRows;
  float out[kRows][kDim / 32] = {};
  float row_max[kRows], row_sum[kRows], shrink[kRows];

  __device__ SimtBlock(const CausalAttentionParams& p_, SimtShared<kDim>& shared_, const KeyValueRows<T>& rows_)
      : p(p_), shared(shared_), rows(rows_) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) row_max[r] = -INFINITY, row_sum[r] = 0.f;
  }

  __device__ void load_query(int b, int kv_head, int group, int first, int count) {
    for (int i = threadIdx.x; i < kPackedRows * kDim; i += kThreads) {
      const int r = i / kDim, c = i % kDim, t = (first + r) / group, head = kv_head * group + (first + r) % group;
      const T* row = static_cast<const T*>(p.query) + (int64_t(b) * p.length + t) * p.query_stride + head * p.key_dim;
      shared.q[r][c] = r < count && c < p.key_dim ? to_float(row[c]) : 0.f;
    }
  }

  __device__ void load_keys(int k0, int last) {
    for (int i = threadIdx.x; i < kKeys * kDim; i += kThreads) {
      const int r = i / kDim, c = i % kDim, key = k0 + r;
      shared.tiles.k[r][c] = key < last && c < p.key_dim ? to_float(rows.key(key)[c]) : 0.f;
    }
  }

  __device__ void load_values(int k0, int last) {
    for (int i = threadIdx.x; i < kKeys * kDim; i += kThreads) {
      const int r = i / kDim, c = i % kDim, key = k0 + r;
      shared.tiles.v[r][c] = key < last && c < p.value_dim ? to_float(rows.value(key)[c]) : 0.f;
    }
  }

  __device__ void softmax(const ScoreScale& scale, const int (&query)[kRows], int key, bool valid) {
    float4 sums[kRows] = {};
#pragma unroll 4
    for (int c = 0; c < kDim; c += 4) {
      const float4 k = *reinterpret_cast<const float4*>(&shared.tiles.k[lane][c]);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float4 q = *reinterpret_cast<const float4*>(&shared.q[row0 + r][c]);
        sums[r].x = fmaf(q.x, k.x, sums[r].x);
        sums[r].y = fmaf(q.y, k.y, sums[r].y);
        sums[r].z = fmaf(q.z, k.z, sums[r].z);
        sums[r].w = fmaf(q.w, k.w, sums[r].w);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float dot = (sums[r].x + sums[r].y) + (sums[r].z + sums[r].w);
      const float s = valid && sees(query[r], key, p.window) ? scale(dot) : -INFINITY;
      float top = fmaxf(row_max[r], s);
#pragma unroll
      for (int w = 16; w >= 1; w /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, w));
      const float base = top == -INFINITY ? 0.f : top, prob = exp2_approx(s - base);
      shrink[r] = exp2_approx(row_max[r] - base);
      row_max[r] = top;
      row_sum[r] = fmaf(row_sum[r], shrink[r], prob);
      shared.prob[row0 + r][lane] = prob;
    }
    __syncwarp();
  }

  // Sums a tile on its own before adding it, so that rounding errors grow with the number of tiles, not of keys.
  __device__ void multiply_values() {
    float tile[kRows][kDim / 32] = {};
#pragma unroll 2
    for (int k = 0; k < kKeys; k += 4) {
      float4 prob[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) prob[r] = *reinterpret_cast<const float4*>(&shared.prob[row0 + r][k]);
#pragma unroll
      for (int i = 0; i < kDim / 32; ++i) {
        const float* v = &shared.tiles.v[k][32 * i + lane];
        const float v0 = v[0], v1 = v[kDim], v2 = v[2 * kDim], v3 = v[3 * kDim];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          tile[r][i] = fmaf(prob[r].x, v0, fmaf(prob[r].y, v1, fmaf(prob[r].z, v2, fmaf(prob[r].w, v3, tile[r][i]))));
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int i = 0; i < kDim / 32; ++i) out[r][i] = fmaf(out[r][i], shrink[r], tile[r][i]);
    }
  }

  __device__ void store(const SplitResults& results, int b, int kv_head, int group, int first, int split) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum = row_sum[r];
#pragma unroll
      for (int w = 16; w >= 1; w /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, w);
      const int packed = first + row0 + r, t = packed / group;
      if (t >= p.length) continue;
      const int64_t row = (int64_t(b) * p.length + t) * p.query_heads + kv_head * group + packed % group;
      const int64_t slot = split * results.rows + row;
#pragma unroll
      for (int i = 0; i < kDim / 32; ++i) {
        const int c = 32 * i + lane;
        if (c >= p.value_dim) continue;
        if (results.splits == 1) {
          static_cast<T*>(p.y)[row * p.value_dim + c] = from_float<T>(t < rows.len ? out[r][i] / sum : 0.f);
        } else {
          results.values[slot * p.value_dim + c] = out[r][i];
        }
      }
      if (results.splits > 1 && lane == 0) results.norms[slot] = make_float2(row_max[r], sum);
    }
  }
};

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads) simt_kernel(CausalAttentionParams p, SplitResults results) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<SimtShared<kDim>*>(shared_bytes);
  const int split = blockIdx.x % results.splits, first = blockIdx.x / results.splits * kPackedRows;
  const int kv_head = blockIdx.y, b = blockIdx.z, group = p.query_heads / p.kv_heads;
  wait_for_previous_kernel();
  const KeyValueRows<T> rows(p, b, kv_head);
  const int count = min(kPackedRows, rows.len * group - first);
  SimtBlock<T, kDim> block(p, shared, rows);

  if (count > 0) {
    const int t_first = first / group, t_last = (first + count - 1) / group;
    if (split == 0) rows.template write_cache<1>(ceil_div(first, group), t_last + 1, p.capacity);
    const KeyRange keys(rows.past, t_first, t_last, p.window, split, results.splits, kKeys);
    const ScoreScale scale(p);
    int query[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) query[r] = rows.past + (first + block.row0 + r) / group;
    block.load_query(b, kv_head, group, first, count);
    for (int k0 = keys.first; k0 < keys.last; k0 += kKeys) {
      constexpr bool kTakeTurns = SimtShared<kDim>::kTakeTurns;
      const bool has_rows = block.row0 < count;
      __syncthreads();
      block.load_keys(k0, keys.last);
      if (!kTakeTurns) block.load_values(k0, keys.last);
      __syncthreads();
      if (has_rows) block.softmax(scale, query, k0 + block.lane, k0 + block.lane < keys.last);
      if (kTakeTurns) {
        __syncthreads();
        block.load_values(k0, keys.last);
        __syncthreads();
      }
      if (has_rows) block.multiply_values();
    }
  }
  block.store(results, b, kv_head, group, first, split);
}

template <typename T, int kDim>
cudaError_t launch_simt(const CausalAttentionParams& p, const SplitResults& results, cudaStream_t stream) {
  const int tiles = ceil_div(p.length * (p.query_heads / p.kv_heads), kPackedRows);
  const dim3 grid(tiles * results.splits, p.kv_heads, p.batch);
  return launch(simt_kernel<T, kDim>, grid, kThreads, sizeof(SimtShared<kDim>), stream, p, results);
}

template <typename T>
cudaError_t dispatch_dim(const CausalAttentionParams& p, const SplitResults& results, cudaStream_t stream) {
  const int dim = p.key_dim > p.value_dim ? p.key_dim : p.value_dim;
  return dim <= 32   ? launch_simt<T, 32>(p, results, stream)
         : dim <= 64 ? launch_simt<T, 64>(p, results, stream)
         : dim <= 96 ? launch_simt<T, 96>(p, results, stream)
         : dim <= 128 ? launch_simt<T, 128>(p, results, stream)
                      : launch_simt<T, 256>(p, results, stream);
}

}  // namespace

cudaError_t causal_attention_simt(const CausalAttentionParams& p, const SplitResults& results, cudaStream_t stream) {
  return with_type(p.dtype, [&](auto zero) { return dispatch_dim<decltype(zero)>(p, results, stream); });
}

}  // namespace seqexport
