// The tiles of prefill attention: copies between device and shared memory, and a warp's online softmax over them.
//
// A warp holds 16 * kTiles query rows and takes the keys a tile of kKeys at a time:
//   score = Q K^T;  P = exp2(factor * score - base);  out += P V.
// A row's base is its largest factor * score of some tile before. It is raised, and what was summed under it rescaled,
// only where a score passes it by more than kSlack: the accumulators then wait for no softmax. P stays under 2^kSlack,
// which fp16 holds. The row sums are P times ones on the tensor cores: the sums, in float32, of the P that V is
// multiplied by, so that P's rounding to T is in numerator and denominator alike.
#pragma once

#include "causal_attention_common.cuh"
#include "mma.cuh"

namespace seqexport {

template <typename T_, int kDim_>
struct PrefillTraits {
  using T = T_;
  static constexpr int kDim = kDim_;  // key_dim and value_dim rounded up
  static constexpr int kWarps = 4;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTiles = kDim <= 128 ? 2 : 1;  // 16-row tiles a warp
  static constexpr int kWarpRows = 16 * kTiles;
  static constexpr int kRows = kWarpRows * kWarps;
  static constexpr int kKeys = kDim <= 128 ? 64 : 32;
  static constexpr int kBlocks = kDim <= 64 ? 3 : (kDim <= 128 ? 2 : 1);  // on a multiprocessor
  static constexpr int kPitch = kDim + 8;  // an odd number of 16-byte vectors: ldmatrix without bank conflicts

  using Tile = T[kKeys][kPitch];
  struct Shared {
    alignas(16) T q[kRows][kPitch];
    alignas(16) Tile k;
    alignas(16) Tile v;
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

// Copies rows that lie `stride` apart and are kDim wide to the whole tile.
template <typename Traits>
__device__ __forceinline__ void copy_whole(typename Traits::Tile& tile, const typename Traits::T* source,
                                           int64_t stride) {
  constexpr int kVectors = Traits::kDim == 96 ? 16 : Traits::kDim / 8;  // threads on a row
  constexpr int kStep = Traits::kThreads / kVectors;
  const int r = threadIdx.x / kVectors, c = threadIdx.x % kVectors * 8;
  if (Traits::kDim == 96 && c >= Traits::kDim) return;
  source += r * stride + c;
#pragma unroll
  for (int i = 0; i < Traits::kKeys; i += kStep) {
    copy_async_16(&tile[r + i][c], source, true);
    source += kStep * stride;
  }
}

// Whether keys k0 .. k0 + kKeys - 1 are all there, and in the cache or in this call together.
template <typename Traits>
__device__ __forceinline__ bool is_whole(const KeyValueRows<typename Traits::T>& rows, int k0) {
  return k0 + Traits::kKeys <= rows.total() && (k0 >= rows.past || k0 + Traits::kKeys <= rows.past);
}

// Starts the copy of keys k0 .. k0 + kKeys - 1, zeros for those past the last; the same for values. Widths and strides
// come from `p`, in constant memory, as registers are scarce.
template <typename Traits>
__device__ __forceinline__ void copy_keys(typename Traits::Tile& tile, const CausalAttentionParams& p,
                                          const KeyValueRows<typename Traits::T>& rows, int k0) {
  if (p.key_dim == Traits::kDim && is_whole<Traits>(rows, k0)) {
    copy_whole<Traits>(tile, rows.key(k0), k0 < rows.past ? p.key_dim : p.key_stride);
  } else {
    rows.template copy_keys<Traits::kKeys, Traits::kDim, Traits::kThreads>(tile, k0, rows.total(), threadIdx.x);
  }
  copy_async_commit();
}
template <typename Traits>
__device__ __forceinline__ void copy_values(typename Traits::Tile& tile, const CausalAttentionParams& p,
                                            const KeyValueRows<typename Traits::T>& rows, int k0) {
  if (p.value_dim == Traits::kDim && is_whole<Traits>(rows, k0)) {
    copy_whole<Traits>(tile, rows.value(k0), k0 < rows.past ? p.value_dim : p.value_stride);
  } else {
    rows.template copy_values<Traits::kKeys, Traits::kDim, Traits::kThreads>(tile, k0, rows.total(), threadIdx.x);
  }
  copy_async_commit();
}

// Writes rows [first, last) of a tile to the cache; row 0 would go to `cache`.
template <typename Traits>
__device__ __forceinline__ void write_cache(typename Traits::T* cache, int width, const typename Traits::Tile& tile,
                                            int first, int last) {
  constexpr int kVectors = Traits::kDim / 8;
#pragma unroll 2
  for (int i = threadIdx.x; i < Traits::kKeys * kVectors; i += Traits::kThreads) {
    const int r = i / kVectors, c = i % kVectors * 8;
    const uint4 vector = *reinterpret_cast<const uint4*>(&tile[r][c]);
    if (r >= first && r < last && c < width) *reinterpret_cast<uint4*>(cache + r * width + c) = vector;
  }
}

template <typename Traits>
struct PrefillWarp {
  using T = typename Traits::T;
  static constexpr int kTiles = Traits::kTiles, kKeyTiles = Traits::kKeys / 8, kDimTiles = Traits::kDim / 8;
  static constexpr float kSlack = 8.f;
  static constexpr float kLowest = -3.402823466e38f;  // finite, so that -inf - kLowest is -inf

  const int lane = threadIdx.x % 32;
  float out[kTiles][kDimTiles + 1][4] = {};  // not divided; every column of the last tile is the row sums
  float score[kTiles][kKeyTiles][4];         // from softmax() on P
  float base[kTiles][2];

  __device__ __forceinline__ PrefillWarp() {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) base[m][0] = base[m][1] = kLowest;
  }

  // Calls f(score, m, n, i) for each score of this lane.
  template <typename F>
  __device__ __forceinline__ void for_each_score(F f) {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) f(score[m][n][i], m, n, i);
      }
    }
  }

  // `q` is the warp's first row in shared memory.
  __device__ __forceinline__ void multiply_keys(const T (*q)[Traits::kPitch], const typename Traits::Tile& keys) {
    for_each_score([](float& s, int, int, int) { s = 0.f; });
#pragma unroll
    for (int k = 0; k < Traits::kDim; k += 16) {
      uint32_t a[kTiles][4];
#pragma unroll
      for (int m = 0; m < kTiles; ++m) load_matrix_x4(a[m], &q[16 * m + lane % 16][k + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < kKeyTiles; n += 2) {
        uint32_t b[4];
        load_matrix_x4(b, &keys[8 * n + lane % 8 + lane / 16 * 8][k + lane / 8 % 2 * 8]);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          mma<T>(score[m][n], a[m], b[0], b[1]);
          mma<T>(score[m][n + 1], a[m], b[2], b[3]);
        }
      }
    }
  }

  // `query0` and `key0` are the key positions of the warp's first query and of the tile's first key.
  __device__ __forceinline__ void mask(int query0, int key0, int window) {
    for_each_score([&](float& s, int m, int n, int i) {
      const int query = query0 + 16 * m + lane / 4 + i / 2 * 8, key = key0 + 8 * n + lane % 4 * 2 + i % 2;
      if (!sees(query, key, window)) s = -INFINITY;
    });
  }

  __device__ __forceinline__ void cap(const ScoreScale& scale) {
    for_each_score([&](float& s, int, int, int) { s = tanh_approx(scale.inner * s); });
  }

  __device__ __forceinline__ void softmax(float factor) {
    float top[kTiles][2];
    bool passed = false;
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        top[m][half] = -INFINITY;
#pragma unroll
        for (int n = 0; n < kKeyTiles; ++n) {
          top[m][half] = fmaxf(top[m][half], fmaxf(score[m][n][2 * half], score[m][n][2 * half + 1]));
        }
        passed |= __fsub_rn(__fmul_rn(top[m][half], factor), base[m][half]) > kSlack;
      }
    }
    if (__any_sync(0xffffffffu, passed)) raise_base(top, factor);
    for_each_score([&](float& s, int m, int, int i) { s = softmax_weight(s, factor, base[m][i / 2]); });
  }

  __device__ __forceinline__ void raise_base(float (&top)[kTiles][2], float factor) {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float highest = top[m][half];
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
        highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
        highest = fmaxf(highest * factor, base[m][half]);
        const float shrink = exp2_approx(base[m][half] - highest);
        base[m][half] = highest;
#pragma unroll
        for (int n = 0; n <= kDimTiles; ++n) {
          out[m][n][2 * half] *= shrink;
          out[m][n][2 * half + 1] *= shrink;
        }
      }
    }
  }

  __device__ __forceinline__ void multiply_values(const typename Traits::Tile& values) {
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
      for (int m = 0; m < kTiles; ++m) mma_row_sums<T>(out[m][kDimTiles], p[m]);
#pragma unroll
      for (int n = 0; n < kDimTiles; n += 2) {
        uint32_t b[4];
        load_matrix_x4_transposed(b, &values[8 * k + lane % 16][8 * n + lane / 16 * 8]);
#pragma unroll
        for (int m = 0; m < kTiles; ++m) {
          mma<T>(out[m][n], p[m], b[0], b[1]);
          mma<T>(out[m][n + 1], p[m], b[2], b[3]);
        }
      }
    }
  }

  // out over the row sums to the warp's rows of `tile`; zeros from row `valid` on.
  __device__ __forceinline__ void divide(T (*tile)[Traits::kPitch], int valid) {
#pragma unroll
    for (int m = 0; m < kTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = 16 * m + 8 * half + lane / 4;
        const float inverse = 1.f / out[m][kDimTiles][2 * half];
#pragma unroll
        for (int n = 0; n < kDimTiles; ++n) {
          const float lo = out[m][n][2 * half] * inverse, hi = out[m][n][2 * half + 1] * inverse;
          store_pair(&tile[r][8 * n + lane % 4 * 2], r < valid ? lo : 0.f, r < valid ? hi : 0.f);
        }
      }
    }
  }

  // Rows [0, rows) of y[.., stride] through the warp's rows of `tile`; zeros from row `valid` on.
  __device__ __forceinline__ void store(T (*tile)[Traits::kPitch], T* y, int64_t stride, int valid, int rows,
                                        int width) {
    constexpr int kVectors = Traits::kDim / 8;
    __syncwarp();
    divide(tile, valid);
    __syncwarp();
#pragma unroll 4
    for (int i = lane; i < Traits::kWarpRows * kVectors; i += 32) {
      const int r = i / kVectors, c = i % kVectors * 8;
      if (r < rows && c < width) {
        *reinterpret_cast<uint4*>(y + r * stride + c) = *reinterpret_cast<const uint4*>(&tile[r][c]);
      }
    }
  }
};

}  // namespace seqexport
