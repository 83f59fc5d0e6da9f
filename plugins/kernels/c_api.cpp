// Error messages around the kernels.
#include "c_api.h"

#include <cstdio>

#include "params_checks.h"

namespace {

using seqexport::Op;

thread_local char last_error[512] = "";

enum Status { kOk = 0, kBadArgument = 1, kCudaError = 2 };

// Of each op, its place in op_list.h.
enum Place {
#define OP(stem, Params, cuda, cpu) at_##stem,
SEQEXPORT_OPS(OP)
#undef OP
};

void explain(const Op& op, const char* suffix, const std::string& why) {
  std::snprintf(last_error, sizeof last_error, "%s%s: %s", op.stem, suffix, why.c_str());
}

// Whether `check` takes the params of a call, named <stem><suffix>.
template <typename Check>
bool takes(const Op& op, const char* suffix, const void* params, Check&& check) {
  last_error[0] = '\0';
  try {
    if (!params) throw seqexport::Refusal("params is null");
    check(op, params);
    return true;
  } catch (const std::exception& refusal) {
    explain(op, suffix, refusal.what());
    return false;
  }
}

int run(Place place, const void* params, void* stream) {
  const Op& op = seqexport::ops()[place];
  if (!takes(op, "", params, seqexport::check_params)) return kBadArgument;
  if (!op.launch) return explain(op, "", "it has no CUDA kernel yet"), kBadArgument;
  const int error = op.launch(params, stream);
  if (error == 0) return kOk;
  explain(op, "", seqexport::launch_fault(error));
  return kCudaError;
}

size_t workspace(Place place, const void* params) {
  const Op& op = seqexport::ops()[place];
  if (!takes(op, "_workspace", params, seqexport::check_numbers) || !op.workspace.wanted) return 0;
  return op.workspace.wanted(params);
}

}  // namespace

extern "C" {

int seqexport_kernels_abi(void) { return SEQEXPORT_KERNELS_ABI; }

const char* seqexport_last_error(void) { return last_error; }

const char* seqexport_ops_description(void) { return seqexport::ops_description(); }

#define OP(stem, Params, cuda, cpu)                                                                   \
  int seqexport_##stem(const Params* params, void* stream) { return run(at_##stem, params, stream); } \
  size_t seqexport_##stem##_workspace(const Params* params) { return workspace(at_##stem, params); }
SEQEXPORT_OPS(OP)
#undef OP

}  // extern "C"
