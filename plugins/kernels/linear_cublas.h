// Products of many tokens, by cuBLASLt, which is looked for when the first of them is asked for.
#pragma once

#include "linear.h"

namespace seqexport {

cudaError_t linear_cublas(const LinearParams& p, cudaStream_t stream);

}  // namespace seqexport
