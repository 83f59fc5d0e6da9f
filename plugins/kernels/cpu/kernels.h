/* The ops on the CPU: the same params structs as the CUDA kernels, without a stream; workspaces are not used.
 *
 * Every kernel is compiled once for each instruction set, from one source in terms of simd.h; the best one that the
 * processor has is chosen at run time. Results do not depend on the number of threads: how the work is cut follows
 * from the sizes alone. simd.h is compiler vectors and not a SIMD library: GCC and Clang translate them to SSE2, AVX2,
 * AVX-512 and NEON alike, and the sources build on a board that has a compiler and nothing else. */
#pragma once

#ifndef SEQEXPORT_CPU_ONLY
#define SEQEXPORT_CPU_ONLY
#include "causal_attention.h"
#include "causal_conv1d.h"
#include "embedding.h"
#include "last_token.h"
#include "linear.h"
#include "rms_norm.h"
#include "rotary_embedding.h"
#include "selective_scan.h"
#undef SEQEXPORT_CPU_ONLY
#else
#include "causal_attention.h"
#include "causal_conv1d.h"
#include "embedding.h"
#include "last_token.h"
#include "linear.h"
#include "rms_norm.h"
#include "rotary_embedding.h"
#include "selective_scan.h"
#endif

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
  void (*causal_conv1d)(const CausalConv1dParams& p, const Pool& pool);
  void (*selective_scan)(const SelectiveScanParams& p, const Pool& pool);
  void (*causal_attention)(const CausalAttentionParams& p, const Pool& pool);
  void (*embedding)(const EmbeddingParams& p, const Pool& pool);
  void (*last_token)(const LastTokenParams& p, const Pool& pool);
  void (*linear)(const LinearParams& p, const Pool& pool);
  void (*rms_norm)(const RmsNormParams& p, const Pool& pool);
  void (*rotary_embedding)(const RotaryEmbeddingParams& p, const Pool& pool);
};

// The best that this processor has.
const Kernels& kernels();
// All that were built, the best first, ended by one whose instruction_set is null.
const Kernels* all_kernels();

}  // namespace seqexport::cpu
