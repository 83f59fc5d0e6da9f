#include "custom_op.h"

#include "kernel.h"
#include "shape_rule.h"

namespace seqexport::ort {
namespace {

const CustomOp& self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

OrtStatus* create(const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
  return guarded([&] {
    *kernel = naming(*self(op).op, [&] { return new Kernel(*self(op).op, self(op).on, info); });
  });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  return guarded([&] {
    const Kernel& made = *static_cast<Kernel*>(kernel);
    naming(made.op(), [&] { made.compute(context); });
  });
}

OrtStatus* infer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  return guarded([&] { naming(*self(op).op, [&] { infer_shapes(*self(op).op, context); }); });
}

}  // namespace

CustomOp::CustomOp(const Op& described, Device device, ONNXTensorElementDataType type, bool infers_shapes)
    : OrtCustomOp{}, op(&described), on(device), t(type) {
  version = kApiVersion;
  GetName = [](const OrtCustomOp* op) { return self(op).op->name; };
  GetExecutionProviderType = [](const OrtCustomOp* op) {
    return self(op).on == Device::kCuda ? "CUDAExecutionProvider" : "CPUExecutionProvider";
  };
  GetInputTypeCount = [](const OrtCustomOp* op) { return self(op).op->inputs.size(); };
  GetInputType = [](const OrtCustomOp* op, size_t index) {
    return index == 0 ? self(op).t : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  };
  GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_OPTIONAL; };
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  GetOutputTypeCount = [](const OrtCustomOp* op) { return self(op).op->outputs.size(); };
  GetOutputType = [](const OrtCustomOp* op, size_t index) {
    const char type = self(op).op->outputs[index].type;
    if (type == 'S') return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    if (type == 'I') return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    return type == 'T' ? self(op).t : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  // ONNX Runtime admits an output of any type where it is optional: its type is then that of the last input of any type
  // (the residual's), or what the shape rule says.
  GetOutputCharacteristic = [](const OrtCustomOp* op, size_t index) {
    return self(op).op->outputs[index].is_optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  GetStartVersion = [](const OrtCustomOp*) { return 1; };
  GetEndVersion = [](const OrtCustomOp*) { return 1; };
  CreateKernelV2 = create;
  KernelComputeV2 = compute;
  KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  InferOutputShapeFn = infers_shapes ? infer : nullptr;
}

}  // namespace seqexport::ort
