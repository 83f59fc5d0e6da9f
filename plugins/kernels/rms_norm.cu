// s = x * silu(z) + residual;   y = s / sqrt(mean(s^2) + epsilon) * weight
//
// A row is one group of a token's channels. Parallelisation: a block a row, or a warp a row where its lanes can hold all
// of it. A thread holds up to kHeld vectors of s in registers between the two passes, and computes those past them again.
// Floor: device memory, x, z and residual read once, y and the sum written once; for one token, the latency of a load, a
// barrier and a store.
#include "rms_norm.h"

#include <algorithm>

#include "launch.cuh"
#include "vector.cuh"

namespace seqexport {
namespace {

constexpr int kHeld = 2, kUsualThreads = 128, kMaxThreads = 1024, kWarpRows = 8;
constexpr int kGatedThreads = 512;  // whose vectors of z take registers too

// Over the threads of one row.
__device__ __forceinline__ float row_sum(float v) {
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

// One row; S is the type of the residual stream, V the elements of a vector, kGated whether there is a z.
template <typename T, typename S, int V, bool kGated>
struct Row {
  struct Vectors {
    Raw<T, V> x, z;
    Raw<S, V> residual;
  };
  const T *x, *weight, *z;
  const S* residual;  // or null
  T* y;
  S* sum;  // or null
  bool gates_y;

  __device__ __forceinline__ Row(const RmsNormParams& p, int index, int channels) {
    const int token = index / p.groups, first = (index - token * p.groups) * channels;
    const int64_t at = int64_t(index) * channels;
    x = static_cast<const T*>(p.x) + at;
    weight = static_cast<const T*>(p.weight) + first;
    z = static_cast<const T*>(p.z) + (kGated ? token * p.z_stride + first : 0);
    residual = p.residual ? static_cast<const S*>(p.residual) + at : nullptr;
    y = static_cast<T*>(p.y) + at;
    sum = p.sum ? static_cast<S*>(p.sum) + at : nullptr;
    gates_y = p.norm_before_gate;
  }

  __device__ __forceinline__ void load(int i, Vectors& raw) const {
    raw.x.load(x + i * V);
    if constexpr (kGated) raw.z.load(z + i * V);
    if (residual) raw.residual.load(residual + i * V);
  }
  __device__ __forceinline__ void gate(const Vectors& raw, float (&values)[V]) const {
    float gates[V];
    raw.z.unpack(gates);
#pragma unroll
    for (int k = 0; k < V; ++k) values[k] *= silu<T>(gates[k]);
  }
  __device__ __forceinline__ void total(const Vectors& raw, float (&s)[V]) const {
    raw.x.unpack(s);
    if (kGated && !gates_y) gate(raw, s);
    if (!residual) return;
    float old[V];
    raw.residual.unpack(old);
#pragma unroll
    for (int k = 0; k < V; ++k) s[k] += old[k];
  }
  __device__ __forceinline__ void store(int i, const float (&s)[V], const Vectors& raw, const Raw<T, V>& weight_raw,
                                        float scale) const {
    float w[V], scaled[V];
    weight_raw.unpack(w);
#pragma unroll
    for (int k = 0; k < V; ++k) scaled[k] = s[k] * scale * w[k];
    if (kGated && gates_y) gate(raw, scaled);
    if (sum) store_vector(sum + i * V, s);
    store_vector(y + i * V, scaled);
  }
};

template <typename T, typename S, int V, bool kGated>
__global__ void __launch_bounds__(kGated ? kGatedThreads : kMaxThreads) rms_norm_kernel(RmsNormParams p, int rows) {
  using Vectors = typename Row<T, S, V, kGated>::Vectors;
  const int index = blockIdx.x * blockDim.y + threadIdx.y, channels = p.channels / p.groups;
  if (index >= rows) return;
  const Row<T, S, V, kGated> row(p, index, channels);
  const int first = threadIdx.x, step = blockDim.x, vectors = channels / V;
  for (int i = first; blockIdx.x == 0 && i < vectors; i += step) prefetch_to_l2(row.weight + i * V);
  wait_for_previous_kernel();

  Vectors raw[kHeld] = {};
  Raw<T, V> weight[kHeld] = {};
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int i = first + h * step;
    if (i < vectors) row.load(i, raw[h]);
  }
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int i = first + h * step;
    if (i < vectors) weight[h].load(row.weight + i * V);
  }
  float held[kHeld][V], squares = 0.f;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    row.total(raw[h], held[h]);
    squares = add_squares(held[h], squares);
  }
  for (int i = first + kHeld * step; i < vectors; i += step) {
    float s[V];
    Vectors more = {};
    row.load(i, more);
    row.total(more, s);
    squares = add_squares(s, squares);
  }
  const float scale = 1.f / sqrtf(row_sum(squares) / float(channels) + p.epsilon);

#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const int i = first + h * step;
    if (i < vectors) row.store(i, held[h], raw[h], weight[h], scale);
  }
  for (int i = first + kHeld * step; i < vectors; i += step) {
    float s[V];
    Vectors more = {};
    Raw<T, V> w;
    w.load(row.weight + i * V);
    row.load(i, more);
    row.total(more, s);
    row.store(i, s, more, w, scale);
  }
}

// The threads of a row, and the rows of a block. A thread has a vector up to the usual number of threads, then up to
// kHeld of them.
dim3 block_for(int vectors, int rows, int most) {
  if (vectors <= 32 * kHeld) return dim3(32, std::min(rows, kWarpRows));
  const int wanted = vectors <= kUsualThreads ? vectors : std::max(kUsualThreads, ceil_div(vectors, kHeld));
  return dim3(std::min(ceil_div(wanted, 32) * 32, most));
}

template <typename T, typename S, int V, bool kGated>
cudaError_t launch_norm(const RmsNormParams& p, cudaStream_t stream) {
  const int rows = p.rows * p.groups;
  const dim3 block = block_for(p.channels / p.groups / V, rows, kGated ? kGatedThreads : kMaxThreads);
  return launch(rms_norm_kernel<T, S, V, kGated>, ceil_div(rows, int(block.y)), block, 0, stream, p, rows);
}

template <typename T, typename S, int V>
cudaError_t dispatch_gate(const RmsNormParams& p, cudaStream_t stream) {
  return p.z ? launch_norm<T, S, V, true>(p, stream) : launch_norm<T, S, V, false>(p, stream);
}

template <typename T, typename S>
cudaError_t dispatch_vector(const RmsNormParams& p, cudaStream_t stream) {
  constexpr int V = kVectorSize<T>;
  const bool whole = rows_are_vectors(p.channels / p.groups, sizeof(T), {p.x, p.weight, p.residual, p.z, p.y, p.sum}) &&
                     (!p.z || p.z_stride % V == 0);
  return whole ? dispatch_gate<T, S, V>(p, stream) : dispatch_gate<T, S, 1>(p, stream);
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
