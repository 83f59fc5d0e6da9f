// s = x + residual;   y = s / sqrt(mean(s^2) + epsilon) * weight
//
// Parallelisation: a block a token, or a warp a token where its lanes can hold all of it. A thread holds up to kHeld
// vectors of s in registers between the two passes, and computes those past them again.
// Floor: device memory, x and residual read once, y and the sum written once; for one token, the latency of a load, a
// barrier and a store.
#include "rms_norm.h"

#include <algorithm>

#include "launch.cuh"
#include "vector.cuh"

namespace seqexport {
namespace {

constexpr int kHeld = 2, kUsualThreads = 128, kMaxThreads = 1024, kWarpTokens = 8;

// Over the threads of one token.
__device__ __forceinline__ float token_sum(float v) {
  __shared__ float partial[kMaxThreads / 32];
  v = warp_sum(v);
  if (blockDim.x == 32) return v;
  const int lane = threadIdx.x % 32;
  if (lane == 0) partial[threadIdx.x / 32] = v;
  __syncthreads();
  return warp_sum(lane < int(blockDim.x) / 32 ? partial[lane] : 0.f);
}

template <int V>
__device__ __forceinline__ float add_squares(const float (&s)[V], float squares) {
#pragma unroll
  for (int k = 0; k < V; ++k) squares = fmaf(s[k], s[k], squares);
  return squares;
}

// One token; S is the type of the residual stream, V the elements of a vector.
template <typename T, typename S, int V>
struct Token {
  const T *x, *weight;
  const S* residual;  // or null
  T* y;
  S* sum;  // or null

  __device__ __forceinline__ Token(const RmsNormParams& p, int64_t token) {
    const int64_t first = token * p.channels;
    x = static_cast<const T*>(p.x) + first;
    weight = static_cast<const T*>(p.weight);
    residual = p.residual ? static_cast<const S*>(p.residual) + first : nullptr;
    y = static_cast<T*>(p.y) + first;
    sum = p.sum ? static_cast<S*>(p.sum) + first : nullptr;
  }

  __device__ __forceinline__ void load(int i, Raw<T, V>& x_raw, Raw<S, V>& residual_raw) const {
    x_raw.load(x + i * V);
    if (residual) residual_raw.load(residual + i * V);
  }
  __device__ __forceinline__ void add(const Raw<T, V>& x_raw, const Raw<S, V>& residual_raw, float (&s)[V]) const {
    x_raw.unpack(s);
    if (!residual) return;
    float old[V];
    residual_raw.unpack(old);
#pragma unroll
    for (int k = 0; k < V; ++k) s[k] += old[k];
  }
  __device__ __forceinline__ void load_sum(int i, float (&s)[V]) const {
    Raw<T, V> x_raw;
    Raw<S, V> residual_raw = {};
    load(i, x_raw, residual_raw);
    add(x_raw, residual_raw, s);
  }
  __device__ __forceinline__ void store(int i, const float (&s)[V], const Raw<T, V>& weight_raw, float scale) const {
    float w[V], scaled[V];
    weight_raw.unpack(w);
#pragma unroll
    for (int k = 0; k < V; ++k) scaled[k] = s[k] * scale * w[k];
    if (sum) store_vector(sum + i * V, s);
    store_vector(y + i * V, scaled);
  }
};

template <typename T, typename S, int V>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_kernel(RmsNormParams p) {
  const int64_t row = int64_t(blockIdx.x) * blockDim.y + threadIdx.y;
  if (row >= p.rows) return;
  const Token<T, S, V> token(p, row);
  const int first = threadIdx.x, step = blockDim.x, vectors = p.channels / V;
  for (int i = first; blockIdx.x == 0 && i < vectors; i += step) prefetch_to_l2(token.weight + i * V);
  wait_for_previous_kernel();

  Raw<T, V> x[kHeld] = {}, weight[kHeld] = {};
  Raw<S, V> residual[kHeld] = {};
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int i = first + h * step;
    if (i < vectors) token.load(i, x[h], residual[h]);
  }
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int i = first + h * step;
    if (i < vectors) weight[h].load(token.weight + i * V);
  }
  float held[kHeld][V], squares = 0.f;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    token.add(x[h], residual[h], held[h]);
    squares = add_squares(held[h], squares);
  }
  for (int i = first + kHeld * step; i < vectors; i += step) {
    float s[V];
    token.load_sum(i, s);
    squares = add_squares(s, squares);
  }
  const float scale = 1.f / sqrtf(token_sum(squares) / float(p.channels) + p.epsilon);

#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int i = first + h * step;
    if (i < vectors) token.store(i, held[h], weight[h], scale);
  }
  for (int i = first + kHeld * step; i < vectors; i += step) {
    float s[V];
    Raw<T, V> w;
    w.load(token.weight + i * V);
    token.load_sum(i, s);
    token.store(i, s, w, scale);
  }
}

// The threads of a token, and the tokens of a block. A thread has a vector up to the usual number of threads, then up
// to kHeld of them.
dim3 block_for(int vectors, int rows) {
  if (vectors <= 32 * kHeld) return dim3(32, std::min(rows, kWarpTokens));
  const int wanted = vectors <= kUsualThreads ? vectors : std::max(kUsualThreads, ceil_div(vectors, kHeld));
  return dim3(std::min(ceil_div(wanted, 32) * 32, kMaxThreads));
}

template <typename T, typename S, int V>
cudaError_t launch_norm(const RmsNormParams& p, cudaStream_t stream) {
  const dim3 block = block_for(p.channels / V, p.rows);
  return launch(rms_norm_kernel<T, S, V>, ceil_div(p.rows, int(block.y)), block, 0, stream, p);
}

template <typename T, typename S>
cudaError_t dispatch_vector(const RmsNormParams& p, cudaStream_t stream) {
  constexpr int V = kVectorSize<T>;
  const bool whole = rows_are_vectors(p.channels, sizeof(T), {p.x, p.weight, p.residual, p.y, p.sum});
  return whole ? launch_norm<T, S, V>(p, stream) : launch_norm<T, S, 1>(p, stream);
}

template <typename T>
cudaError_t dispatch_stream(const RmsNormParams& p, cudaStream_t stream) {
  return p.wide ? dispatch_vector<T, float>(p, stream) : dispatch_vector<T, T>(p, stream);
}

}  // namespace

cudaError_t rms_norm(const RmsNormParams& p, cudaStream_t stream) {
  return with_type(p.dtype, [&](auto zero) { return dispatch_stream<decltype(zero)>(p, stream); });
}

}  // namespace seqexport
