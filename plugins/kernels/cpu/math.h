// Elementary functions on vectors of floats, to about one unit in the last place (tests/onnxruntime/cpu_cases.cpp).
#pragma once

#include "simd.h"

namespace seqexport::cpu::SEQEXPORT_ISA {

constexpr float kLog2e = 1.44269504f, kLog2eLow = 1.92596299e-8f;

constexpr float kRounder = 0x1.8p23f;  // x + kRounder has x, rounded to an integer, in its low bits

// 2^(n + f) where `shifted` is n + kRounder and f in [-0.5, 0.5]: 1 + f q(f), so that it is exact at 0; q minimises the
// relative error (2e-9). A table of powers and a shorter q gained nothing: a lookup takes a multiplier's slot.
static inline Vec exp2_parts(Vec shifted, Vec f) {
  Vec q = f * 1.53533619e-4f + 1.33988750e-3f;
  q = q * f + 9.61843692e-3f;
  q = q * f + 5.55033237e-2f;
  q = q * f + 2.40226477e-1f;
  q = q * f + 6.93147182e-1f;
  return (Vec)(bits(q * f + 1.f) + (bits(shifted) << 23));
}

// NaN for NaN, of which exp2_parts shifts the payload into the exponent.
static inline Vec exp2_in_range(Vec shifted, Vec f) {
  const Vec result = choose(shifted < kRounder - 126.f, zero(), exp2_parts(shifted, f));
  return choose(shifted < kRounder + 127.f, result, shifted * __builtin_inff());
}

// 2^(a b); with kChecked 0 below 2^-126 and infinite from 2^127, otherwise for -126 <= a b <= 126 alone. The product is
// not rounded where there are fused multiply-adds.
template <bool kChecked>
static inline Vec exp2_product(Vec a, Vec b) {
  const Vec shifted = a * b + kRounder;
  const Vec f = a * b - (shifted - kRounder);
  return kChecked ? exp2_in_range(shifted, f) : exp2_parts(shifted, f);
}

static inline Vec exp2(Vec x) {
  const Vec shifted = x + kRounder;
  return exp2_in_range(shifted, x - (shifted - kRounder));
}

// e^x; 0 below 2^-126, infinite from 2^127.
static inline Vec exp(Vec x) {
  const Vec shifted = x * kLog2e + kRounder;
  return exp2_in_range(shifted, x * kLog2eLow + (x * kLog2e - (shifted - kRounder)));
}

// log(1 + u) for u in [0, 1], as 2 atanh(s) with s = u / (2 + u); its first term, 2 s, is u - s u.
static inline Vec log1p_unit(Vec u) {
  const Vec s = u / (u + 2.f), s2 = s * s;
  Vec p = s2 * 2.44130930e-1f + 2.13932445e-1f;
  p = p * s2 + 2.86207226e-1f;
  p = p * s2 + 3.99986909e-1f;
  p = p * s2 + 6.66666793e-1f;
  return u - s * (u - s2 * p);
}

static inline Vec magnitude(Vec x) { return (Vec)(bits(x) & 0x7fffffff); }
static inline Vec maximum(Vec a, Vec b) { return choose(a > b, a, b); }

// The larger of two magnitudes; NaN, whose bits are above infinity's, is larger than all.
static inline Vec larger_magnitude(Vec a, Vec b) { return choose((Ints)a > (Ints)b, a, b); }

static inline float largest(Vec x) {
  float most = x[0];
  for (int lane = 1; lane < W; ++lane) most = x[lane] > most ? x[lane] : most;
  return most;
}

static inline bool all_at_most(Vec x, float bound) {
  bool held = true;
  for (int lane = 0; lane < W; ++lane) held &= x[lane] <= bound;
  return held;
}

static inline Vec softplus(Vec x) {
  return maximum(x, zero()) + log1p_unit(exp(-magnitude(x)));
}

static inline Vec silu(Vec x) { return x / (exp(-x) + 1.f); }

static inline Vec tanh(Vec x) {
  const Vec x2 = x * x;
  Vec p = x2 * -5.70497875e-3f + 2.06390802e-2f;
  p = p * x2 - 5.37397130e-2f;
  p = p * x2 + 1.33314422e-1f;
  p = p * x2 - 3.33332819e-1f;
  const Vec near_zero = x * x2 * p + x;
  const Vec far = 1.f - 2.f / (exp(x * 2.f) + 1.f);
  return choose(magnitude(x) < 0.625f, near_zero, far);
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
