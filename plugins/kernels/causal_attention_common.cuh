// What the attention kernels share: where keys come from, which of them a query sees, partial results of key splits.
//
// The keys of a row of the batch are cache rows 0 .. past-1 followed by the tokens of this call, read from `key` and
// `value` themselves. No kernel reads the cache rows that this call writes, so writing them needs no order, and
// present may be past.
#pragma once

#include "async_copy.cuh"
#include "causal_attention.h"
#include "numeric.cuh"

namespace seqexport {

// One row of the batch and one kv head.
template <typename T>
struct KeyValueRows {
  int past, len;  // cache rows in use, valid tokens of this call
  const T *cache_key, *cache_value, *new_key, *new_value;
  T *present_key, *present_value;
  int64_t key_stride, value_stride;
  int key_dim, value_dim;

  __device__ __forceinline__ KeyValueRows(const CausalAttentionParams& p, int b, int head)
      : past(min(max(p.past_lens[b], 0), p.capacity)),
        len(p.seq_lens ? min(max(p.seq_lens[b], 0), p.length) : p.length), key_stride(p.key_stride),
        value_stride(p.value_stride), key_dim(p.key_dim), value_dim(p.value_dim) {
    const int64_t cache_row = (int64_t(b) * p.kv_heads + head) * p.capacity, token = int64_t(b) * p.length;
    cache_key = static_cast<const T*>(p.past_key) + cache_row * key_dim;
    cache_value = static_cast<const T*>(p.past_value) + cache_row * value_dim;
    present_key = static_cast<T*>(p.present_key) + cache_row * key_dim;
    present_value = static_cast<T*>(p.present_value) + cache_row * value_dim;
    new_key = static_cast<const T*>(p.key) + token * key_stride + head * key_dim;
    new_value = static_cast<const T*>(p.value) + token * value_stride + head * value_dim;
  }

  __device__ __forceinline__ int total() const { return past + len; }
  __device__ __forceinline__ const T* key(int i) const {
    return i < past ? cache_key + int64_t(i) * key_dim : new_key + (i - past) * key_stride;
  }
  __device__ __forceinline__ const T* value(int i) const {
    return i < past ? cache_value + int64_t(i) * value_dim : new_value + (i - past) * value_stride;
  }

  // Copies keys [first, last), at most kRows, to a tile, zeros after them and in columns from key_dim to kDim; thread
  // `thread` of kThreads. The same for values.
  template <int kRows, int kDim, int kThreads>
  __device__ __forceinline__ void copy_keys(T (&tile)[kRows][kDim + 8], int first, int last, int thread) const {
    copy<kRows, kDim, kThreads>(tile, cache_key, key_dim, new_key, key_stride, key_dim, first, last, thread);
  }
  template <int kRows, int kDim, int kThreads>
  __device__ __forceinline__ void copy_values(T (&tile)[kRows][kDim + 8], int first, int last, int thread) const {
    copy<kRows, kDim, kThreads>(tile, cache_value, value_dim, new_value, value_stride, value_dim, first, last, thread);
  }

  // Writes tokens [first, last) of this call to the cache, never past its capacity, in accesses of V elements.
  template <int V>
  __device__ __forceinline__ void write_cache(int first, int last, int capacity) const {
    last = min(min(last, len), capacity - past);
    write<V>(present_key, new_key, key_stride, key_dim, first, last);
    write<V>(present_value, new_value, value_stride, value_dim, first, last);
  }

 private:
  template <int V>
  __device__ __forceinline__ void write(T* present, const T* fresh, int64_t stride, int dim, int first,
                                        int last) const {
    struct alignas(sizeof(T) * V) Access {
      T v[V];
    };
    const int accesses = dim / V;
#pragma unroll 4
    for (int i = threadIdx.x; i < (last - first) * accesses; i += blockDim.x) {
      const int t = first + i / accesses, c = i % accesses * V;
      *reinterpret_cast<Access*>(present + int64_t(past + t) * dim + c) =
          *reinterpret_cast<const Access*>(fresh + t * stride + c);
    }
  }

  template <int kRows, int kDim, int kThreads>
  __device__ __forceinline__ void copy(T (&tile)[kRows][kDim + 8], const T* cache, int cache_stride, const T* fresh,
                                       int64_t fresh_stride, int width, int first, int last, int thread) const {
    constexpr int kVectors = kDim == 96 ? 16 : kDim / 8;  // threads on a row, so that each keeps its column
    constexpr int kStep = kThreads / kVectors;
    const int r0 = thread / kVectors, c = thread % kVectors * 8;
    if (kDim == 96 && c >= kDim) return;
    const T* in_cache = cache + int64_t(first + r0) * cache_stride + c;
    const T* in_call = fresh + (first + r0 - past) * fresh_stride + c;
#pragma unroll
    for (int i = 0; i < kRows / kStep; ++i) {
      const int row = first + r0 + i * kStep;
      copy_async_16(&tile[r0 + i * kStep][c], row < past ? in_cache : in_call, row < last && c < width);
      in_cache += kStep * cache_stride;
      in_call += kStep * fresh_stride;
    }
  }
};

// Keys [first, last) that queries of tokens [t_first, t_last] see, for one of `splits` equal ranges of them.
struct KeyRange {
  int first, last;

  __device__ __forceinline__ KeyRange(int past, int t_first, int t_last, int window, int split, int splits,
                                      int multiple) {
    const int begin = window > 0 ? max(past + t_first - window + 1, 0) / multiple * multiple : 0;
    const int end = past + t_last + 1;
    const int each = ceil_div(ceil_div(max(end - begin, 0), splits), multiple) * multiple;
    first = min(begin + split * each, end);
    last = min(first + each, end);
  }
};

__device__ __forceinline__ bool sees(int query, int key, int window) {
  return key <= query && (window == 0 || key > query - window);
}

// Scores in units of log2: exp2 of them is the softmax's numerator.
struct ScoreScale {
  float inner, outer;  // score = softcap ? outer * tanh(inner * dot) : outer * dot
  bool capped;

  __device__ __forceinline__ explicit ScoreScale(const CausalAttentionParams& p)
      : inner(p.softcap > 0.f ? p.scale / p.softcap : 0.f),
        outer((p.softcap > 0.f ? p.softcap : p.scale) * kLog2e), capped(p.softcap > 0.f) {}
  __device__ __forceinline__ float operator()(float dot) const {
    return outer * (capped ? tanhf(inner * dot) : dot);
  }
};

// exp2(score * factor - base), where base is the rounded product of the row's largest score and factor. Not fused: the
// exact product is half a rounding away from base, which of scores beyond 2^27 alone overflows a weight in float16.
__device__ __forceinline__ float softmax_weight(float score, float factor, float base) {
  return exp2_approx(__fsub_rn(__fmul_rn(score, factor), base));
}

// Results of one split for query row r = (b * L + t) * Hq + head: the sum of exp2(score - max), and values over it.
struct SplitResults {
  int splits;
  int64_t rows;   // B * L * Hq
  float* values;  // F[splits,rows,Dv], sum of exp2(score - max) * value, not divided
  float2* norms;  // F[splits,rows], (max, sum)
};

}  // namespace seqexport
