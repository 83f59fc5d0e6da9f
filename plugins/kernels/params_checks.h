// What the C interface checks of a params struct that a caller filled.
#pragma once

#include "node.h"

namespace seqexport {

// The sizes, if they and every whole number are ones that the CUDA kernels take; throws Refusal. Reads no pointer.
Sizes check_numbers(const Op& op, const void* params);

// The same of everything: strides hold a token, and the pointers that must be there are, aligned.
void check_params(const Op& op, const void* params);

}  // namespace seqexport
