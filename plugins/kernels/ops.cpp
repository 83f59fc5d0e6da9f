// The descriptions of all ops, from op_list.h.
#include "op.h"
#include "op_list.h"

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime_api.h>
#endif

#define OP(stem, Params, cuda, cpu) struct Params;
SEQEXPORT_OPS(OP)
#undef OP

namespace seqexport {

#define OP(stem, Params, cuda, cpu) Op stem##_op();
SEQEXPORT_OPS(OP)
#undef OP

#ifdef SEQEXPORT_CPU_ONLY

#define SEQEXPORT_LAUNCH_CUDA(stem) nullptr

std::string launch_fault(int) { return "compiled without CUDA"; }

#else

#define OP(stem, Params, cuda, cpu) cudaError_t stem(const Params& p, cudaStream_t stream);
SEQEXPORT_OPS(OP)
#undef OP

const char* linear_fault();

namespace {

template <auto kKernel>
int launch(const void* params, void* stream) {
  return int(erased<kKernel>(params, static_cast<cudaStream_t>(stream)));
}

}  // namespace

#define SEQEXPORT_LAUNCH_CUDA(stem) launch<&stem>

std::string launch_fault(int error) {
  const auto e = cudaError_t(error);
  if (e == cudaErrorSharedObjectInitFailed) return linear_fault();  // cuBLASLt is the one that kernels open
  return std::string("CUDA refused the launch: ") + cudaGetErrorString(e) + " (" + cudaGetErrorName(e) + ")";
}

#endif

#define SEQEXPORT_LAUNCH_NONE(stem) nullptr

const std::vector<Op>& ops() {
  static const std::vector<Op>& all = *[] {
    auto* made = new std::vector<Op>();
    const auto add = [&](Op op, const char* stem, int (*launch)(const void*, void*)) {
      op.stem = stem, op.launch = launch;
      made->push_back(std::move(op));
    };
#define OP(stem, Params, cuda, cpu) add(stem##_op(), #stem, SEQEXPORT_LAUNCH_##cuda(stem));
SEQEXPORT_OPS(OP)
#undef OP
    return made;
  }();
  return all;
}

}  // namespace seqexport
