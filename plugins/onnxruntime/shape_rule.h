// Types and shapes of a node's outputs before it runs.
#pragma once

#include "api.h"
#include "op.h"

namespace seqexport::ort {

// Says of each output what the op's description says; inputs that are absent or of unknown shape leave it unknown.
void infer_shapes(const Op& op, OrtShapeInferContext* context);

}  // namespace seqexport::ort
