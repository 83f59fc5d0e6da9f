// An OpInfo as the OrtCustomOp of one provider and one type of its first input.
#pragma once

#include "op.h"

namespace seqexport::ort {

// ONNX Runtime tells variants of one name apart by the types that they declare: that of the first input, which is of
// kind T, stands for all of T. What the other inputs are is left to Call, which says what it expected.
struct CustomOp : OrtCustomOp {
  // `infers_shapes`: whether the runtime calls a shape rule safely (see register.cpp).
  CustomOp(const OpInfo& op, Provider provider, ONNXTensorElementDataType type, bool infers_shapes);
  const OpInfo* info;
  Provider on;
  ONNXTensorElementDataType t;
};

}  // namespace seqexport::ort
