// SHA-256 with the SHA2 instructions of ARMv8.
#include "sha256_forms.h"

// Clang has them for a file that is compiled with them, as with -mcpu=native; GCC for a function.
#if defined(__aarch64__) && (defined(__ARM_FEATURE_SHA2) || !defined(__clang__))

#include <arm_neon.h>
#include <sys/auxv.h>

#ifdef __clang__
#define SEQEXPORT_SHA
#else
#define SEQEXPORT_SHA __attribute__((target("+crypto")))  // AES and SHA2, as GCC 12 wants both
#endif

namespace seqexport {
namespace {

constexpr unsigned long kHasSha2 = 1 << 6;  // in AT_HWCAP, as Linux has it

SEQEXPORT_SHA inline uint32x4_t words(const uint8_t* bytes) {
  return vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(bytes)));
}

// Rounds `first` to `first` + 3, with their words of the message.
SEQEXPORT_SHA inline void rounds(uint32x4_t& abcd, uint32x4_t& efgh, uint32x4_t message, size_t first) {
  const uint32x4_t sum = vaddq_u32(message, vld1q_u32(kSha256Rounds + first)), before = abcd;
  abcd = vsha256hq_u32(abcd, efgh, sum);
  efgh = vsha256h2q_u32(efgh, before, sum);
}

// The words that follow 16 of the message.
SEQEXPORT_SHA inline uint32x4_t next(uint32x4_t w0, uint32x4_t w4, uint32x4_t w8, uint32x4_t w12) {
  return vsha256su1q_u32(vsha256su0q_u32(w0, w4), w8, w12);
}

}  // namespace
}  // namespace seqexport

#include "sha256_block.h"

namespace seqexport {
namespace {

SEQEXPORT_SHA void compress(uint32_t* state, const uint8_t* blocks, size_t count) {
  uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
  for (; count > 0; --count, blocks += 64) {
    const uint32x4_t abcd_before = abcd, efgh_before = efgh;
    sha256_block(abcd, efgh, blocks);
    abcd = vaddq_u32(abcd, abcd_before), efgh = vaddq_u32(efgh, efgh_before);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

}  // namespace

Sha256Blocks sha256_arm() { return getauxval(AT_HWCAP) & kHasSha2 ? compress : nullptr; }

}  // namespace seqexport

#else

namespace seqexport {

Sha256Blocks sha256_arm() { return nullptr; }

}  // namespace seqexport

#endif
