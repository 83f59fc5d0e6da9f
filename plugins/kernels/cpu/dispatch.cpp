// Which instruction sets were compiled (SEQEXPORT_ISAS), and which of them the processor has.
#include <cstddef>

#include "kernels.h"

namespace seqexport::cpu {

// Of an op with a kernel for the CPU, and of one without.
#define DECLARE_CPU(stem, Params) void stem(const Params& p, const Pool& pool);
#define DECLARE_NONE(stem, Params) constexpr std::nullptr_t stem = nullptr;
#define RUN_CPU(stem, Params) \
  [](const void* p, const Pool& pool) { kernels().stem(*static_cast<const Params*>(p), pool); },
#define RUN_NONE(stem, Params) nullptr,

#define DECLARE_OP(stem, Params, cuda, cpu) DECLARE_##cpu(stem, Params)
#define DECLARE(isa)          \
  namespace isa {             \
  SEQEXPORT_OPS(DECLARE_OP)   \
  }

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
#define OP(stem, Params, cuda, cpu) avx512::stem,
    {"avx512", has_avx512, SEQEXPORT_OPS(OP)},
#undef OP
#define OP(stem, Params, cuda, cpu) avx2::stem,
    {"avx2", has_avx2, SEQEXPORT_OPS(OP)},
#undef OP
#endif
#if defined(__aarch64__)
#define OP(stem, Params, cuda, cpu) neon::stem,
    {"neon", always, SEQEXPORT_OPS(OP)},
#else
#define OP(stem, Params, cuda, cpu) baseline::stem,
    {"baseline", always, SEQEXPORT_OPS(OP)},
#endif
#undef OP
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

Run kernel(size_t op) {
#define OP(stem, Params, cuda, cpu) RUN_##cpu(stem, Params)
  static constexpr Run all[] = {SEQEXPORT_OPS(OP)};
#undef OP
  return all[op];
}

}  // namespace seqexport::cpu
