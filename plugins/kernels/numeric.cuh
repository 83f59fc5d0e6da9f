// Conversions, pair loads and the elementary functions shared by the kernels.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "dtype.h"

namespace seqexport {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// Storage only, so that sm_72 and CUDA 11.4, whose cuda_bf16.h has no conversions there, compile it too.
struct alignas(2) Bfloat16 {
  uint16_t bits;
};

// Calls body with a value of the C++ type of `dtype`; cudaErrorInvalidValue where it is none.
template <typename Body>
cudaError_t with_type(int dtype, const Body& body) {
  switch (dtype) {
    case SEQEXPORT_FLOAT32: return body(float());
    case SEQEXPORT_FLOAT16: return body(__half());
    case SEQEXPORT_BFLOAT16: return body(Bfloat16());
    default: return cudaErrorInvalidValue;
  }
}

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(Bfloat16 v) { return __uint_as_float(uint32_t(v.bits) << 16); }

template <typename T>
__device__ __forceinline__ T from_float(float v);
template <>
__device__ __forceinline__ float from_float<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ Bfloat16 from_float<Bfloat16>(float v) {
  Bfloat16 r;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
#else
  const uint32_t u = __float_as_uint(v);
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  r.bits = nan ? uint16_t(0x7fff) : uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
  return r;
}

// The (low, high) halves of a word of two 16-bit elements.
template <typename T>
__device__ __forceinline__ float2 unpack_pair(uint32_t word);
template <>
__device__ __forceinline__ float2 unpack_pair<__half>(uint32_t word) {
  return __half22float2(*reinterpret_cast<const __half2*>(&word));
}
template <>
__device__ __forceinline__ float2 unpack_pair<Bfloat16>(uint32_t word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

// Two, or four, neighbouring elements in one access; `p` is aligned to all of them.
__device__ __forceinline__ float2 load_pair(const float* p) { return *reinterpret_cast<const float2*>(p); }
template <typename T>
__device__ __forceinline__ float2 load_pair(const T* p) {
  return unpack_pair<T>(*reinterpret_cast<const uint32_t*>(p));
}
__device__ __forceinline__ float4 load_quad(const float* p) { return *reinterpret_cast<const float4*>(p); }
template <typename T>
__device__ __forceinline__ float4 load_quad(const T* p) {
  const uint2 words = *reinterpret_cast<const uint2*>(p);
  const float2 lo = unpack_pair<T>(words.x), hi = unpack_pair<T>(words.y);
  return make_float4(lo.x, lo.y, hi.x, hi.y);
}

// Packs two floats as (low, high) halves of a word.
template <typename T>
__device__ __forceinline__ uint32_t pack_pair(float lo, float hi);
template <>
__device__ __forceinline__ uint32_t pack_pair<__half>(float lo, float hi) {
  const __half2 h = __floats2half2_rn(lo, hi);
  return *reinterpret_cast<const uint32_t*>(&h);
}
template <>
__device__ __forceinline__ uint32_t pack_pair<Bfloat16>(float lo, float hi) {
#if __CUDA_ARCH__ >= 800
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
#else
  return uint32_t(from_float<Bfloat16>(lo).bits) | (uint32_t(from_float<Bfloat16>(hi).bits) << 16);
#endif
}

template <typename T>
__device__ __forceinline__ void store_pair(T* p, float lo, float hi) {
  *reinterpret_cast<uint32_t*>(p) = pack_pair<T>(lo, hi);
}
__device__ __forceinline__ void store_pair(float* p, float lo, float hi) {
  *reinterpret_cast<float2*>(p) = make_float2(lo, hi);
}

// 2^x on the special-function unit: 2 ulp, subnormals flushed.
__device__ __forceinline__ float exp2_approx(float x) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// Added to the argument of exp2_approx in (-1, 0) where results multiply up: the unit rounds down by 2e-8 in the mean
// (measured on H100). 2^bias is 1 exactly.
constexpr float kExp2Bias = 2.5e-8f;

// e^x with the rounding of x * log2(e) compensated, where e^x is neither infinite nor 0: there the compensation, of no
// sign that counts, would make NaN of them.
__device__ __forceinline__ float exp_compensated(float x) {
  const float t = x * kLog2e;
  const float residue = fmaf(x, 1.925963033500e-8f, fmaf(x, kLog2e, -t));
  const float e = exp2_approx(t);
  return fabsf(t) < 128.f ? fmaf(e, residue * kLn2, e) : e;
}

// A rate of decay, for exp2. An infinite one is made finite, so that times the delta of 0 of a token that is not there it
// is no NaN; it still decays all at once.
__device__ __forceinline__ float decay_rate(float a) {
  constexpr float kMost = 3.402823466e38f;
  const float rate = a * kLog2e;
  return rate < -kMost ? -kMost : rate > kMost ? kMost : rate;
}

// log(1 + e) for e in [0, 1]: minimax polynomial, relative error 1.4e-7.
__device__ __forceinline__ float log1p_unit(float e) {
  float p = -0.0032440091017633677f;
  p = fmaf(p, e, 0.01985139027237892f);
  p = fmaf(p, e, -0.056959398090839386f);
  p = fmaf(p, e, 0.10603640973567963f);
  p = fmaf(p, e, -0.1530558466911316f);
  p = fmaf(p, e, 0.19675935804843903f);
  p = fmaf(p, e, -0.24954132735729218f);
  p = fmaf(p, e, 0.3332996368408203f);
  p = fmaf(p, e, -0.4999990165233612f);
  return fmaf(p, e * e, e);
}

// log(1 + e^x): to the last bits for T = float; of 16-bit ones, whose rounding is far coarser, 5e-7 at x = -8.
template <typename T>
__device__ __forceinline__ float softplus(float x) {
  return fmaxf(x, 0.f) + log1p_unit(exp2_approx(-fabsf(x) * kLog2e));
}
template <>
__device__ __forceinline__ float softplus<float>(float x) {
  return fmaxf(x, 0.f) + log1p_unit(exp_compensated(-fabsf(x)));
}

__device__ __forceinline__ float reciprocal_approx(float x) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
  return r;
}

// x / (1 + e^-x): to the last bits for results stored as float, on the special-function unit for 16-bit ones.
template <typename T>
__device__ __forceinline__ float silu(float x) {
  return x * reciprocal_approx(1.f + exp2_approx(-x * kLog2e));
}
template <>
__device__ __forceinline__ float silu<float>(float x) {
  return x / (1.f + exp_compensated(-x));
}

// Absolute error 2e-7.
__device__ __forceinline__ float tanh_approx(float x) {
  return fmaf(-2.f, reciprocal_approx(1.f + exp2_approx(x * (2.f * kLog2e))), 1.f);
}

__host__ __device__ constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace seqexport
