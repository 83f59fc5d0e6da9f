// The activations of experts.
#pragma once

#include "experts.h"
#include "numeric.cuh"

namespace seqexport {

constexpr float kRootOf2OverPi = 0.7978845608028654f, kRootOfHalf = 0.7071067811865476f;

__device__ __forceinline__ bool is_expert(const ExpertsParams& p, int index) { return index >= 0 && index < p.experts; }

// NaN stays NaN.
__device__ __forceinline__ float relu(float x) { return x < 0.f ? 0.f : x; }

template <typename T>
__device__ __forceinline__ float gelu_tanh(float x) {
  const float inner = kRootOf2OverPi * fmaf(0.044715f * x, x * x, x);
  return 0.5f * x * (1.f + (sizeof(T) == 4 ? tanhf(inner) : tanh_approx(inner)));
}

template <typename T>
__device__ __forceinline__ float activated(int activation, float x) {
  switch (activation) {
    case SEQEXPORT_SILU: return silu<T>(x);
    case SEQEXPORT_GELU: return 0.5f * x * (1.f + erff(x * kRootOfHalf));
    case SEQEXPORT_GELU_TANH: return gelu_tanh<T>(x);
    case SEQEXPORT_RELU: return relu(x);
    default: return relu(x) * relu(x);
  }
}

}  // namespace seqexport
