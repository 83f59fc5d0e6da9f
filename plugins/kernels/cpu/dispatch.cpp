// Which instruction sets were compiled (SEQEXPORT_ISAS), and which of them the processor has.
#include "kernels.h"

namespace seqexport::cpu {

#define DECLARE(isa)                                                        \
  namespace isa {                                                           \
  void causal_conv1d(const CausalConv1dParams& p, const Pool& pool);        \
  void selective_scan(const SelectiveScanParams& p, const Pool& pool);      \
  void causal_attention(const CausalAttentionParams& p, const Pool& pool);  \
  void embedding(const EmbeddingParams& p, const Pool& pool);               \
  void last_token(const LastTokenParams& p, const Pool& pool);              \
  void linear(const LinearParams& p, const Pool& pool);                     \
  void rms_norm(const RmsNormParams& p, const Pool& pool);                  \
  void rotary_embedding(const RotaryEmbeddingParams& p, const Pool& pool);  \
  }
#define ENTRY(isa, supported)  \
  {#isa, supported, isa::causal_conv1d, isa::selective_scan, isa::causal_attention, isa::embedding, isa::last_token, \
   isa::linear, isa::rms_norm, isa::rotary_embedding}

#if defined(__x86_64__)
DECLARE(avx512)
DECLARE(avx2)
#endif
#if defined(__aarch64__)
DECLARE(neon)
#else
DECLARE(baseline)
#endif

namespace {

#if defined(__x86_64__)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif
bool always() { return true; }

const Kernels table[] = {
#if defined(__x86_64__)
    ENTRY(avx512, has_avx512),
    ENTRY(avx2, has_avx2),
#endif
#if defined(__aarch64__)
    ENTRY(neon, always),
#else
    ENTRY(baseline, always),
#endif
    {},
};

}  // namespace

const Kernels* all_kernels() { return table; }

const Kernels& kernels() {
  static const Kernels* best = [] {
    const Kernels* each = table;
    while (!each->supported()) ++each;
    return each;
  }();
  return *best;
}

}  // namespace seqexport::cpu
