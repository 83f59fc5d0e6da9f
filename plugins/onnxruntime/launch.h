// Runs a params struct: the CPU kernels on the session's threads, the CUDA kernels on its stream.
#pragma once

#include "api.h"
#include "op.h"

namespace seqexport::ort {

void launch(const Op& op, Device device, OrtKernelContext* context, void* params);

void launch_on_cpu(const Op& op, OrtKernelContext* context, const void* params);

}  // namespace seqexport::ort
