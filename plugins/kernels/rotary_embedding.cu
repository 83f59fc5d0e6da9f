// y = x * cos + rotate_half(x) * sin for the first R features of each head of query and key; the others are copied.
//
// Parallelisation: a thread turns V pairs (i, i + R/2) of one head, or copies V features; the heads of a block are of
// one token, whose angles the L1 cache then serves.
// Floor: device memory, query and key read and written once; for one token, the latency of a launch.
#include "rotary_embedding.h"

#include <algorithm>

#include "launch.cuh"
#include "vector.cuh"

namespace seqexport {
namespace {

constexpr int kThreads = 256, kMaxGridRows = 65535;

template <typename T, int V>
__device__ __forceinline__ void turn(const T* x, T* y, const T* cos, const T* sin, int half) {
  float low[V], high[V], cos_low[V], cos_high[V], sin_low[V], sin_high[V];
  load_vector(x, low), load_vector(x + half, high);
  load_vector(cos, cos_low), load_vector(cos + half, cos_high);
  load_vector(sin, sin_low), load_vector(sin + half, sin_high);
#pragma unroll
  for (int k = 0; k < V; ++k) {
    const float a = low[k], b = high[k];
    low[k] = fmaf(a, cos_low[k], -b * sin_low[k]);
    high[k] = fmaf(b, cos_high[k], a * sin_high[k]);
  }
  store_vector(y, low), store_vector(y + half, high);
}

// One head of one token.
template <typename T>
struct Head {
  const T* x;
  T* y;

  __device__ __forceinline__ Head(const RotaryEmbeddingParams& p, int64_t token, int head) {
    const bool is_query = head < p.query_heads;
    const int64_t row = is_query ? token * p.query_heads + head : token * p.kv_heads + head - p.query_heads;
    x = static_cast<const T*>(is_query ? p.query : p.key) + row * p.head_dim;
    y = static_cast<T*>(is_query ? p.query_rotated : p.key_rotated) + row * p.head_dim;
  }
};

// threadIdx.y counts heads, those of the query first.
template <typename T, int V>
__global__ void __launch_bounds__(kThreads) rotary_kernel(RotaryEmbeddingParams p) {
  const int half = p.rotary_dim / 2, turns = half / V, parts = turns + (p.head_dim - p.rotary_dim) / V;
  const int heads = p.query_heads + p.kv_heads;
  const int64_t token = blockIdx.x;
  const T* cos = static_cast<const T*>(p.cos) + token * p.rotary_dim;
  const T* sin = static_cast<const T*>(p.sin) + token * p.rotary_dim;
  wait_for_previous_kernel();
  for (int h = blockIdx.y * blockDim.y + threadIdx.y; h < heads; h += gridDim.y * blockDim.y) {
    const Head<T> head(p, token, h);
    for (int part = threadIdx.x; part < parts; part += blockDim.x) {
      const int i = part * V;
      if (part < turns) {
        turn<T, V>(head.x + i, head.y + i, cos + i, sin + i, half);
      } else {
        float passed[V];
        load_vector(head.x + half + i, passed);
        store_vector(head.y + half + i, passed);
      }
    }
  }
}

template <typename T, int V>
cudaError_t launch_rotary(const RotaryEmbeddingParams& p, cudaStream_t stream) {
  const int parts = p.rotary_dim / 2 / V + (p.head_dim - p.rotary_dim) / V, heads = p.query_heads + p.kv_heads;
  const int part_threads = std::min(parts, kThreads);
  const int blocks = std::min(ceil_div(heads, kThreads / part_threads), kMaxGridRows);
  const dim3 block(part_threads, std::min(ceil_div(heads, blocks), kThreads / part_threads));
  return launch(rotary_kernel<T, V>, dim3(p.rows, blocks), block, 0, stream, p);
}

// Whether every access of V elements is one.
template <typename T, int V>
bool is_whole(const RotaryEmbeddingParams& p) {
  bool whole = p.rotary_dim % (2 * V) == 0 && p.head_dim % V == 0;
  for (const void* tensor : {p.query, p.key, p.cos, p.sin, static_cast<const void*>(p.query_rotated),
                             static_cast<const void*>(p.key_rotated)}) {
    whole = whole && reinterpret_cast<uintptr_t>(tensor) % (V * sizeof(T)) == 0;
  }
  return whole;
}

template <typename T>
cudaError_t dispatch_vector(const RotaryEmbeddingParams& p, cudaStream_t stream) {
  if (is_whole<T, kVectorSize<T>>(p)) return launch_rotary<T, kVectorSize<T>>(p, stream);
  return is_whole<T, 2>(p) ? launch_rotary<T, 2>(p, stream) : launch_rotary<T, 1>(p, stream);
}

}  // namespace

cudaError_t rotary_embedding(const RotaryEmbeddingParams& p, cudaStream_t stream) {
  return with_type(p.dtype, [&](auto zero) { return dispatch_vector<decltype(zero)>(p, stream); });
}

}  // namespace seqexport
