// Products of many tokens, by cuBLASLt, which is looked for when the first of them is asked for.
#pragma once

#include "linear.h"

namespace seqexport {

// cudaErrorStreamCaptureUnsupported where the stream is being captured and the product is new to cuBLASLt; some of the
// outputs may be queued then.
cudaError_t linear_cublas(const LinearParams& p, cudaStream_t stream);

}  // namespace seqexport
