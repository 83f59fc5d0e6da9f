// Vectors of W floats for the instruction set that the file is compiled for, named by SEQEXPORT_ISA.
//
// Everything is in a namespace of that name: inline functions of two instruction sets must never be merged. For the
// same reason the kernels call nothing inline of the standard library but what the compiler itself provides.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels.h"

namespace seqexport::cpu::SEQEXPORT_ISA {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float Vec __attribute__((vector_size(W * 4)));
typedef int32_t Ints __attribute__((vector_size(W * 4)));
typedef uint32_t Bits __attribute__((vector_size(W * 4)));
typedef uint16_t Shorts __attribute__((vector_size(W * 2)));

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// What a task works in, up to 300 KB, which a thread's stack may not have: `new` gives its thread's scratch memory,
// which the thread's next task takes over; nothing deletes it.
struct InScratch {
  static void* operator new(size_t bytes) { return scratch(bytes); }
};

static inline Vec all(float x) { return Vec{} + x; }
static inline Vec zero() { return Vec{}; }
static inline Bits bits(Vec v) { return (Bits)v; }
static inline Vec choose(Ints mask, Vec yes, Vec no) { return mask ? yes : no; }

static inline float sum(Vec v) {
  typedef float Quad __attribute__((vector_size(16)));
  Quad parts[W / 4];
  memcpy(parts, &v, sizeof v);
  for (int i = 1; i < W / 4; ++i) parts[0] += parts[i];
  return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
}

static inline Ints lane_numbers() {
  Ints numbers;
  for (int i = 0; i < W; ++i) numbers[i] = i;
  return numbers;
}

static inline Vec load(const float* p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline void store(float* p, Vec v) { memcpy(p, &v, sizeof v); }

#if defined(__AVX512F__)
static inline Vec load(const Half* p) { return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
static inline void store(Half* p, Vec v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, 0)); }
#elif defined(__AVX2__)
static inline Vec load(const Half* p) { return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
static inline void store(Half* p, Vec v) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, 0)); }
#elif defined(__aarch64__)
static inline Vec load(const Half* p) {
  return (Vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)p)));
}
static inline void store(Half* p, Vec v) {
  vst1_u16((uint16_t*)p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)v)));
}
#else
// The exponent is rebased by a multiplication, which also gives subnormal numbers their value.
static inline Vec load(const Half* p) {
  Shorts h;
  memcpy(&h, p, sizeof h);
  const Bits wide = __builtin_convertvector(h, Bits);
  const Bits magnitude = (wide & 0x7fff) << 13;
  const Bits scaled = bits((Vec)magnitude * 0x1p112f);
  const Bits special = (Bits)(magnitude >= (0x7c00u << 13)) & 0x7f800000u;
  return (Vec)(scaled | special | (wide & 0x8000) << 16);
}
// Rounds to nearest even: the addition of a power of two leaves as many fraction bits as the result has.
static inline void store(Half* p, Vec v) {
  const Bits sign = bits(v) & 0x80000000u, magnitude = bits(v) ^ sign;
  const Vec tiny = (Vec)magnitude + 0x1p-1f;  // a unit in its last place is 2^-24, a half's smallest step
  const Bits subnormal = bits(tiny) - 0x3f000000u;
  const Bits odd = magnitude >> 13 & 1;
  const Bits normal = (magnitude - (112u << 23) + 0xfff + odd) >> 13;
  Bits h = (Bits)(magnitude < (113u << 23)) ? subnormal : normal;
  h = (Bits)(magnitude >= 0x47800000u) ? Bits{} + 0x7c00 : h;
  h = (Bits)(magnitude > 0x7f800000u) ? Bits{} + 0x7e00 : h;
  const Shorts out = __builtin_convertvector(h | sign >> 16, Shorts);
  memcpy(p, &out, sizeof out);
}
#endif

static inline Vec load(const BFloat16* p) {
  Shorts h;
  memcpy(&h, p, sizeof h);
  return (Vec)(__builtin_convertvector(h, Bits) << 16);
}
static inline void store(BFloat16* p, Vec v) {
  const Bits b = bits(v);
  const Bits rounded = (b + 0x7fff + (b >> 16 & 1)) >> 16;
  const Bits quiet = b >> 16 | 0x40;
  const Shorts out = __builtin_convertvector((Bits)(v != v) ? quiet : rounded, Shorts);
  memcpy(p, &out, sizeof out);
}

// The first `count` elements; the others are 0 and are not read.
template <class T>
static inline Vec load(const T* p, int count) {
  if (count >= W) return load(p);
  T part[W] = {};
  memcpy(part, p, count * sizeof(T));
  return load(part);
}
template <class T>
static inline void store(T* p, Vec v, int count) {
  if (count >= W) return store(p, v);
  T part[W];
  store(part, v);
  memcpy(p, part, count * sizeof(T));
}

// dtype as a type: calls body(T()) for the SeqexportDataType.
template <class Body>
static inline void with_type(int32_t dtype, const Body& body) {
  if (dtype == SEQEXPORT_FLOAT16) return body(Half());
  if (dtype == SEQEXPORT_BFLOAT16) return body(BFloat16());
  body(float());
}

static inline int smaller(int a, int b) { return a < b ? a : b; }
static inline int larger(int a, int b) { return a > b ? a : b; }
static inline int blocks_of(int size, int block) { return (size + block - 1) / block; }

// Valid tokens of row b, whatever seq_lens says.
static inline int valid_tokens(const int32_t* seq_lens, int b, int length) {
  return seq_lens ? smaller(larger(seq_lens[b], 0), length) : length;
}

// body(i) for each i below count: on the pool, or here where the whole is less than a few microseconds of work.
constexpr int64_t kWorthThreads = 1 << 15;  // multiply-adds

template <class Body>
static inline void parallel(const Pool& pool, size_t count, int64_t work, const Body& body) {
  if (count == 1 || work < kWorthThreads) {
    for (size_t i = 0; i < count; ++i) body(i);
    return;
  }
  pool.run(pool.threads, count, [](void* data, size_t i) { (*static_cast<const Body*>(data))(i); },
           const_cast<Body*>(&body));
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
