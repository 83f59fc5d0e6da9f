// Every op, each described in the file of its name.
#pragma once

#include "op.h"

namespace seqexport::tensorrt {

const Op& causal_attention();
const Op& causal_conv1d();
const Op& selective_scan();

inline std::array<const Op*, 3> ops() { return {&causal_attention(), &causal_conv1d(), &selective_scan()}; }

}  // namespace seqexport::tensorrt
