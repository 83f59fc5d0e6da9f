// An op as the OrtCustomOp of one provider and one type of its first input.
#pragma once

#include "api.h"
#include "op.h"

namespace seqexport::ort {

// ONNX Runtime tells variants of one name apart by the types that they declare: that of the first input, which is of
// kind T, stands for all of T. What the other inputs are is left to compute(), which says what it expected.
struct CustomOp : OrtCustomOp {
  // `infers_shapes`: whether the runtime calls a shape rule safely (see register.cpp).
  CustomOp(const Op& described, Device device, ONNXTensorElementDataType type, bool infers_shapes);
  const Op* op;
  Device on;
  ONNXTensorElementDataType t;
};

}  // namespace seqexport::ort
