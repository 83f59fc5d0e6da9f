#include "custom_op.h"

#include <cstring>

namespace seqexport::ort {
namespace {

const CustomOp& self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

// Where each input of the op stands among the node's: the order of the schema, or of the attribute `inputs`, which
// names the inputs that a node has where absent ones are left out. -1: absent.
std::vector<int> positions(const OpInfo& op, const std::string& listed) {
  std::vector<int> places(op.inputs().size(), -1);
  for (size_t i = 0; listed.empty() && i < places.size(); ++i) places[i] = static_cast<int>(i);
  int place = 0;
  for (size_t start = 0; start < listed.size(); ++place) {
    const size_t end = std::min(listed.find(',', start), listed.size());
    const std::string name = listed.substr(start, end - start);
    size_t index = 0;
    while (index < places.size() && name != op.inputs()[index].name) ++index;
    if (index == places.size() || places[index] >= 0) {
      const std::string why = index == places.size() ? "it has no input '" + name + "'" : "twice input '" + name + "'";
      throw Refused(ORT_INVALID_ARGUMENT, std::string(op.name()) + ": attribute inputs: " + why + "; got '" + listed +
                                              "'");
    }
    places[index] = place;
    start = end + 1;
  }
  return places;
}

struct Node {
  const OpInfo& op;
  std::vector<int> positions;
  std::unique_ptr<Kernel> kernel;
};

OrtStatus* create(const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info, void** kernel) {
  return guarded([&] {
    const OpInfo& described = *self(op).info;
    const Attributes attributes(described, info);
    std::vector<int> places = positions(described, attributes.text("inputs", ""));
    *kernel = new Node{described, std::move(places), described.create(attributes, self(op).on)};
  });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) {
  return guarded([&] {
    const Node& node = *static_cast<Node*>(kernel);
    Call call(node.op, node.positions, context);
    node.kernel->compute(call);
  });
}

std::string listed_inputs(const OrtShapeInferContext* context) {
  const OrtOpAttr* attribute = nullptr;
  if (OrtStatus* status = api().ShapeInferContext_GetAttribute(context, "inputs", &attribute)) {
    api().ReleaseStatus(status);
    return "";
  }
  size_t size = 0;
  if (OrtStatus* status = api().ReadOpAttr(attribute, ORT_OP_ATTR_STRING, nullptr, 0, &size)) {
    api().ReleaseStatus(status);  // it says how large a buffer it wants
  }
  std::string listed(size, '\0');
  if (size) check(api().ReadOpAttr(attribute, ORT_OP_ATTR_STRING, listed.data(), size, &size));
  listed.resize(std::strlen(listed.c_str()));
  return listed;
}

OrtStatus* infer(const OrtCustomOp* op, OrtShapeInferContext* context) {
  return guarded([&] {
    const std::vector<int> places = positions(*self(op).info, listed_inputs(context));
    self(op).info->infer(ShapeRule(places, context));
  });
}

}  // namespace

CustomOp::CustomOp(const OpInfo& op, Provider provider, ONNXTensorElementDataType type, bool infers_shapes)
    : OrtCustomOp{}, info(&op), on(provider), t(type) {
  version = kApiVersion;
  GetName = [](const OrtCustomOp* op) { return self(op).info->name(); };
  GetExecutionProviderType = [](const OrtCustomOp* op) {
    return self(op).on == Provider::kCuda ? "CUDAExecutionProvider" : "CPUExecutionProvider";
  };
  GetInputTypeCount = [](const OrtCustomOp* op) { return self(op).info->inputs().size(); };
  GetInputType = [](const OrtCustomOp* op, size_t index) {
    return index == 0 ? self(op).t : ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  };
  GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_OPTIONAL; };
  GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  GetOutputTypeCount = [](const OrtCustomOp* op) { return self(op).info->outputs().size(); };
  GetOutputType = [](const OrtCustomOp* op, size_t index) {
    const Kind kind = self(op).info->outputs()[index].kind;
    if (kind == Kind::S) return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    return kind == Kind::T ? self(op).t : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  // ONNX Runtime admits an output of any type where it is optional: its type is then that of the last input of any type
  // (the residual's), or what the shape rule says.
  GetOutputCharacteristic = [](const OrtCustomOp* op, size_t index) {
    return self(op).info->outputs()[index].optional ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
  GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
  GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  GetStartVersion = [](const OrtCustomOp*) { return 1; };
  GetEndVersion = [](const OrtCustomOp*) { return 1; };
  CreateKernelV2 = create;
  KernelComputeV2 = compute;
  KernelDestroy = [](void* kernel) { delete static_cast<Node*>(kernel); };
  InferOutputShapeFn = infers_shapes ? infer : nullptr;
}

}  // namespace seqexport::ort
