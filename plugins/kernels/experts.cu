// Few tokens read the weights of the chosen experts once (experts_few.cuh).
#include "experts.h"

#include <algorithm>

#include "experts_few.cuh"

namespace seqexport {
namespace {

bool takes_vectors(const ExpertsParams& p) {
  const int bytes = int(seqexport_element_bytes(p.dtype));
  return rows_are_vectors(p.channels, bytes, {p.x, p.gate_up}) && rows_are_vectors(p.hidden, bytes, {p.down});
}

// Tokens first..first + rows.
ExpertsParams part_of(const ExpertsParams& p, int first, int rows) {
  const int64_t bytes = int64_t(seqexport_element_bytes(p.dtype)) * first * p.channels;
  ExpertsParams part = p;
  part.rows = rows;
  part.x = static_cast<const char*>(p.x) + bytes;
  part.chosen += int64_t(first) * p.choices;
  part.weight += int64_t(first) * p.choices;
  part.y = static_cast<char*>(p.y) + bytes;
  return part;
}

int few_tokens(const ExpertsParams& p) {
  return std::min({p.rows, experts_few::kTokensMost, experts_few::kPairsMost / p.choices});
}

}  // namespace

size_t experts_workspace(const ExpertsParams& p) {
  return std::min(kExpertsWorkspace, few_tokens(p) * experts_token_bytes(p));
}

cudaError_t experts(const ExpertsParams& p, cudaStream_t stream) {
  const size_t fitting = p.workspace_bytes / experts_token_bytes(p);
  if (fitting == 0) return cudaErrorInvalidValue;
  const int at_once = int(std::min(fitting, size_t(few_tokens(p))));
  const bool vectors = takes_vectors(p);
  cudaError_t e = cudaSuccess;
  for (int first = 0; first < p.rows && e == cudaSuccess; first += at_once) {
    const ExpertsParams part = part_of(p, first, std::min(at_once, p.rows - first));
    e = with_type(p.dtype, [&](auto zero) { return experts_few::run<decltype(zero)>(part, vectors, stream); });
  }
  return e;
}

}  // namespace seqexport
