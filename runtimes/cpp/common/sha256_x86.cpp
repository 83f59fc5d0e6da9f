// SHA-256 with SHA-NI, which x86-64 processors have since 2016 (Goldmont, Zen) and 2019 (Ice Lake).
#include "sha256_forms.h"

#ifdef __x86_64__

#include <cpuid.h>
#include <immintrin.h>

#define SEQEXPORT_SHA __attribute__((target("sha,ssse3,sse4.1")))

namespace seqexport {
namespace {

bool has_instructions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kShaNi = 1u << 29, kOthers = bit_SSSE3 | bit_SSE4_1;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & kOthers) != kOthers) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & kShaNi);
}

SEQEXPORT_SHA inline __m128i load(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }

SEQEXPORT_SHA inline __m128i words(const uint8_t* bytes) {
  return _mm_shuffle_epi8(load(bytes), _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203));
}

// Rounds `first` to `first` + 3, with their words of the message.
SEQEXPORT_SHA inline void rounds(__m128i& abef, __m128i& cdgh, __m128i message, size_t first) {
  const __m128i sum = _mm_add_epi32(message, load(kSha256Rounds + first));
  cdgh = _mm_sha256rnds2_epu32(cdgh, abef, sum);
  abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(sum, 0x0e));
}

// The words that follow 16 of the message.
SEQEXPORT_SHA inline __m128i next(__m128i w0, __m128i w4, __m128i w8, __m128i w12) {
  const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w4), _mm_alignr_epi8(w12, w8, 4));
  return _mm_sha256msg2_epu32(sum, w12);
}

}  // namespace
}  // namespace seqexport

#include "sha256_block.h"

namespace seqexport {
namespace {

SEQEXPORT_SHA void compress(uint32_t* state, const uint8_t* blocks, size_t count) {
  const __m128i badc = _mm_shuffle_epi32(load(state), 0xb1), hgfe = _mm_shuffle_epi32(load(state + 4), 0x1b);
  __m128i abef = _mm_alignr_epi8(badc, hgfe, 8), cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
  for (; count > 0; --count, blocks += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    sha256_block(abef, cdgh, blocks);
    abef = _mm_add_epi32(abef, abef_before), cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i abef_up = _mm_shuffle_epi32(abef, 0x1b), cdgh_turned = _mm_shuffle_epi32(cdgh, 0xb1);
  auto* const to = reinterpret_cast<__m128i*>(state);
  _mm_storeu_si128(to, _mm_blend_epi16(abef_up, cdgh_turned, 0xf0));
  _mm_storeu_si128(to + 1, _mm_alignr_epi8(cdgh_turned, abef_up, 8));
}

}  // namespace

Sha256Blocks sha256_x86() { return has_instructions() ? compress : nullptr; }

}  // namespace seqexport

#else

namespace seqexport {

Sha256Blocks sha256_x86() { return nullptr; }

}  // namespace seqexport

#endif
