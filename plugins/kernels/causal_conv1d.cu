// Causal depthwise convolution over tokens, prefill and decode in one kernel.
//
//   y[b,t,d] = act(bias[d] + sum_j weight[d,j] * xx[b,d,t+j]),  xx = past followed by x
//   present[b,d,:] = the last K-1 values of xx up to the row's last valid token
//
// Parallelisation: a thread owns V neighbouring channels (one access) and kTokens tokens, and slides the
// last K-1 inputs through registers; neighbouring token tiles re-read K-1 inputs, which the L2 cache serves.
// The thread of the first tile reads past and writes present, so the two may be one buffer.
// Floor: device memory, x read once and y written once.
#include "causal_conv1d.h"

#include "launch.cuh"
#include "numeric.cuh"

namespace seqexport {
namespace {

constexpr int kThreads = 128;
constexpr int kTokens = 32;      // per thread
constexpr int kAheadBytes = 64;  // of tokens loaded ahead of the one in work
constexpr int kVector = 4;       // channels per thread, where there are enough of them

// V neighbouring elements, one access. Four 16-bit elements go through words of two.
template <typename T, int V>
struct alignas(sizeof(T) * V) Pack {
  T v[V];

  __device__ __forceinline__ void unpack(float* out) const {
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = to_float(v[i]);
  }
  __device__ __forceinline__ void pack(const float* in) {
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] = from_float<T>(in[i]);
  }
};
template <typename T>
struct alignas(8) PackOfWords {
  uint32_t words[2];

  __device__ __forceinline__ void unpack(float* out) const {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 pair = unpack_pair<T>(words[i]);
      out[2 * i] = pair.x, out[2 * i + 1] = pair.y;
    }
  }
  __device__ __forceinline__ void pack(const float* in) {
#pragma unroll
    for (int i = 0; i < 2; ++i) words[i] = pack_pair<T>(in[2 * i], in[2 * i + 1]);
  }
};
template <>
struct Pack<__half, 4> : PackOfWords<__half> {};
template <>
struct Pack<Bfloat16, 4> : PackOfWords<Bfloat16> {};

// M consecutive accesses of V elements; p is aligned to one.
template <typename T, int V, int M>
__device__ __forceinline__ void load_packs(const T* p, float (&out)[M * V]) {
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const Pack<T, V> pack = reinterpret_cast<const Pack<T, V>*>(p)[m];
    pack.unpack(out + m * V);
  }
}

// present[j] = xx[len + j], from the old state `past` (V channels of K - 1) and the row's tokens.
template <typename T, int V, int K>
__device__ void write_present(const CausalConv1dParams& p, const T* x, const float (&past)[V * (K - 1)], T* present,
                              int len) {
  float out[V * (K - 1)];
#pragma unroll
  for (int n = 0; n < V * (K - 1); ++n) {
    const int i = n / (K - 1), j = n % (K - 1), t = len + j - (K - 1);
    out[n] = past[n];
#pragma unroll
    for (int k = j + 1; k < K - 1; ++k) {
      if (len + j == k) out[n] = past[i * (K - 1) + k];
    }
    if (t >= 0) out[n] = to_float(x[t * p.x_stride + i]);
  }
#pragma unroll
  for (int m = 0; m < K - 1; ++m) {
    Pack<T, V> pack;
    pack.pack(out + m * V);
    reinterpret_cast<Pack<T, V>*>(present)[m] = pack;
  }
}

template <typename T, int V>
__device__ __forceinline__ Pack<T, V> load_token(const T* x, int64_t stride, int t, int len) {
  Pack<T, V> zero = {};
  return t < len ? *reinterpret_cast<const Pack<T, V>*>(x + t * stride) : zero;
}

template <typename T, int V, int K>
__global__ void __launch_bounds__(kThreads, K <= 4 ? 5 : 3) conv_kernel(CausalConv1dParams p, int channel_blocks) {
  constexpr int kAhead = kAheadBytes / int(4 * sizeof(T));
  const int d = ((blockIdx.x % channel_blocks) * kThreads + threadIdx.x) * V;
  const int t0 = (blockIdx.x / channel_blocks) * kTokens;
  const int b = blockIdx.y;
  if (d >= p.channels) return;
  const int64_t state = (int64_t(b) * p.channels + d) * (K - 1);
  prefetch_to_l2(static_cast<const T*>(p.weight) + int64_t(d) * K);
  if (p.bias) prefetch_to_l2(static_cast<const T*>(p.bias) + d);
  if (t0 == 0) prefetch_to_l2(static_cast<const T*>(p.past) + state);
  wait_for_previous_kernel();

  const int len = p.seq_lens ? min(max(p.seq_lens[b], 0), p.length) : p.length;
  const T* x = static_cast<const T*>(p.x) + b * int64_t(p.length) * p.x_stride + d;
  T* y = static_cast<T*>(p.y) + b * int64_t(p.length) * p.channels + d;
  Pack<T, V> ahead[kAhead];
#pragma unroll
  for (int g = 0; g < kAhead; ++g) ahead[g] = load_token<T, V>(x, p.x_stride, t0 + g, len);

  float weight[V * K], bias[V] = {}, window[K][V];  // window[K - 1]: the token in work
  load_packs<T, V, K>(static_cast<const T*>(p.weight) + int64_t(d) * K, weight);
  if (p.bias) load_packs<T, V, 1>(static_cast<const T*>(p.bias) + d, bias);
  if (t0 == 0) {
    float past[V * (K - 1)];
    load_packs<T, V, K - 1>(static_cast<const T*>(p.past) + state, past);
#pragma unroll
    for (int n = 0; n < V * (K - 1); ++n) window[n % (K - 1)][n / (K - 1)] = past[n];
    write_present<T, V, K>(p, x, past, static_cast<T*>(p.present) + state, len);
  } else {
#pragma unroll
    for (int j = 0; j < K - 1; ++j) load_token<T, V>(x, p.x_stride, t0 - (K - 1) + j, len).unpack(window[j]);
  }

  const int end = min(t0 + kTokens, p.length);
  for (int t = t0; t < end; t += kAhead) {
#pragma unroll
    for (int g = 0; g < kAhead; ++g) {
      ahead[g].unpack(window[K - 1]);
      if (t + kAhead < end) ahead[g] = load_token<T, V>(x, p.x_stride, t + kAhead + g, len);
      float out[V];
#pragma unroll
      for (int i = 0; i < V; ++i) {
        out[i] = bias[i];
#pragma unroll
        for (int j = 0; j < K; ++j) out[i] = fmaf(weight[i * K + j], window[j][i], out[i]);
#pragma unroll
        for (int j = 0; j < K - 1; ++j) window[j][i] = window[j + 1][i];
      }
      if (p.activation == SEQEXPORT_ACTIVATION_SILU) {
#pragma unroll
        for (int i = 0; i < V; ++i) out[i] = silu<T>(out[i]);
      }
      Pack<T, V> pack;
      pack.pack(out);
      if (t + g >= len) pack = Pack<T, V>{};
      if (t + g < end) *reinterpret_cast<Pack<T, V>*>(y + int64_t(t + g) * p.channels) = pack;
    }
  }
}

template <typename T, int V, int K>
cudaError_t launch_conv(const CausalConv1dParams& p, cudaStream_t stream) {
  const int channel_blocks = ceil_div(p.channels, kThreads * V);
  const dim3 grid(channel_blocks * ceil_div(p.length, kTokens), p.batch);
  return launch(conv_kernel<T, V, K>, grid, kThreads, 0, stream, p, channel_blocks);
}

template <typename T, int V>
cudaError_t dispatch_kernel_size(const CausalConv1dParams& p, cudaStream_t stream) {
  switch (p.kernel_size) {
    case 2: return launch_conv<T, V, 2>(p, stream);
    case 3: return launch_conv<T, V, 3>(p, stream);
    case 4: return launch_conv<T, V, 4>(p, stream);
    case 5: return launch_conv<T, V, 5>(p, stream);
    case 6: return launch_conv<T, V, 6>(p, stream);
    case 7: return launch_conv<T, V, 7>(p, stream);
    case 8: return launch_conv<T, V, 8>(p, stream);
    default: return cudaErrorInvalidValue;
  }
}

template <typename T>
cudaError_t dispatch_vector(const CausalConv1dParams& p, cudaStream_t stream) {
  constexpr int V = kVector;
  bool aligned = p.channels % V == 0 && p.x_stride % V == 0;
  for (const void* tensor : {p.x, p.weight, p.bias, p.past, static_cast<const void*>(p.y),
                             static_cast<const void*>(p.present)}) {
    aligned = aligned && reinterpret_cast<uintptr_t>(tensor) % (V * sizeof(T)) == 0;
  }
  const int64_t vector_threads = int64_t(p.batch) * ceil_div(p.length, kTokens) * (p.channels / V);
  const bool fills_device = vector_threads >= 256 * int64_t(device_attribute(cudaDevAttrMultiProcessorCount));
  return aligned && fills_device ? dispatch_kernel_size<T, V>(p, stream) : dispatch_kernel_size<T, 1>(p, stream);
}

}  // namespace

cudaError_t causal_conv1d(const CausalConv1dParams& p, cudaStream_t stream) {
  return with_type(p.dtype, [&](auto zero) { return dispatch_vector<decltype(zero)>(p, stream); });
}

}  // namespace seqexport
