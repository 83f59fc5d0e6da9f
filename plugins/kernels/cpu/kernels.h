/* The ops on the CPU: the same params structs as the CUDA kernels, without a stream; workspaces are not used.
 *
 * Every kernel is compiled once for each instruction set, from one source in terms of simd.h; the best one that the
 * processor has is chosen at run time. Results do not depend on the number of threads: how the work is cut follows
 * from the sizes alone. simd.h is compiler vectors and not a SIMD library: GCC and Clang translate them to SSE2, AVX2,
 * AVX-512 and NEON alike, and the sources build on a board that has a compiler and nothing else. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "dtype.h"
#include "op_list.h"

#define SEQEXPORT_OP(stem, Params, cuda, cpu) struct Params;
SEQEXPORT_OPS(SEQEXPORT_OP)
#undef SEQEXPORT_OP

namespace seqexport::cpu {

// Threads that a kernel may use.
struct Pool {
  // Calls task(data, i) once for each i below count, in any order on any threads, and returns when all are done.
  void (*run)(void* threads, size_t count, void (*task)(void* data, size_t i), void* data);
  void* threads;
};

struct Kernels {
  const char* instruction_set;  // "avx512", "avx2", "neon" or "baseline"
  bool (*supported)();          // whether this processor has it
#define SEQEXPORT_OP(stem, Params, cuda, cpu) void (*stem)(const Params& p, const Pool& pool);
  SEQEXPORT_OPS(SEQEXPORT_OP)
#undef SEQEXPORT_OP
};

// Memory of the calling thread, on the heap: taken once and kept until the thread ends. Holds until its next call.
// Throws std::bad_alloc.
void* scratch(size_t bytes);

// The best that this processor has.
const Kernels& kernels();
// All that were built, the best first, ended by one whose instruction_set is null.
const Kernels* all_kernels();

// One of kernels(), for any params of its op.
using Run = void (*)(const void* params, const Pool& pool);
// That of the op at this place in op_list.h; null where it has none yet.
Run kernel(size_t op);

}  // namespace seqexport::cpu
