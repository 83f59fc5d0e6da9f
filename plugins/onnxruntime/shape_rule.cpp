#include "shape_rule.h"

#include <cstring>
#include <memory>

#include "kernel.h"

namespace seqexport::ort {
namespace {

// Null where the node has none of that name.
const OrtOpAttr* attribute(const OrtShapeInferContext* context, const char* name) {
  const OrtOpAttr* found = nullptr;
  if (OrtStatus* status = api().ShapeInferContext_GetAttribute(context, name, &found)) {
    api().ReleaseStatus(status);
    return nullptr;
  }
  return found;
}

std::string listed_inputs(const OrtShapeInferContext* context) {
  const OrtOpAttr* listed = attribute(context, kInputsAttribute);
  if (!listed) return "";
  size_t size = 0;
  if (OrtStatus* status = api().ReadOpAttr(listed, ORT_OP_ATTR_STRING, nullptr, 0, &size)) {
    api().ReleaseStatus(status);  // it says how large a buffer it wants
  }
  std::string text(size, '\0');
  if (size) check(api().ReadOpAttr(listed, ORT_OP_ATTR_STRING, text.data(), size, &size));
  text.resize(std::strlen(text.c_str()));
  return text;
}

// -1 where the node has no such attribute.
int64_t whole(const OrtShapeInferContext* context, const char* name) {
  const OrtOpAttr* found = attribute(context, name);
  int64_t value = -1;
  size_t size = sizeof value;
  if (found) check(api().ReadOpAttr(found, ORT_OP_ATTR_INT, &value, size, &size));
  return value;
}

bool is_wide(const OrtShapeInferContext* context) { return whole(context, kWideAttribute) == 1; }

ONNXTensorElementDataType type_of(const OrtShapeInferContext* context, const Tensor& output,
                                  ONNXTensorElementDataType t) {
  if (output.type == 'I') return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  const bool is_float = output.type == 'F' || (output.type == 'S' && is_wide(context));
  return is_float ? ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT : t;
}

bool is_window(const OrtShapeInferContext* context, const Tensor& input) {
  return input.stride && whole(context, (input.name + std::string(kWindowSuffix)).c_str()) >= 0;
}

// The extents of a tensor, and the names of those that have one.
struct Extents {
  Shape sizes;
  std::vector<const char*> names;
};

// What is known of one input.
struct Input {
  ONNXTensorElementDataType type;
  Extents extents;  // of a window those of B and L
};

// Nothing for an input that is absent, or of unknown type. Names are owned by the context.
std::optional<Input> input(const OrtShapeInferContext* context, int position) {
  size_t count = 0;
  check(api().ShapeInferContext_GetInputCount(context, &count));
  if (position < 0 || size_t(position) >= count) return std::nullopt;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (OrtStatus* status = api().ShapeInferContext_GetInputTypeShape(context, size_t(position), &info)) {
    api().ReleaseStatus(status);
    return std::nullopt;
  }
  Input found = {};
  check(api().GetTensorElementType(info, &found.type));
  if (found.type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED) return std::nullopt;  // which an absent input has
  size_t rank = 0;
  check(api().GetDimensionsCount(info, &rank));
  found.extents = {Shape(rank), std::vector<const char*>(rank)};
  check(api().GetDimensions(info, found.extents.sizes.data(), rank));
  check(api().GetSymbolicDimensions(info, found.extents.names.data(), rank));
  return found;
}

using Inputs = std::vector<std::optional<Input>>;

// Those of the input that has the output's very axes, else axis by axis those of the first that has each; nothing where
// one is not known.
std::optional<Extents> extents_of(const Op& op, const Tensor& output, const Inputs& inputs, const Sizes& stated) {
  const auto rank = [&](size_t i) { return inputs[i] ? inputs[i]->extents.sizes.size() : 0; };
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (rank(i) == op.inputs[i].axes.size() && op.inputs[i].axes == output.axes) return inputs[i]->extents;
  }
  Extents extents;
  for (const Axis& axis : output.axes) {
    const size_t before = extents.sizes.size();
    const int64_t constant = axis.length(stated);
    if (constant >= 0) extents.sizes.push_back(constant), extents.names.push_back("");
    for (size_t i = 0; i < inputs.size() && extents.sizes.size() == before; ++i) {
      for (size_t a = 0; a < rank(i) && extents.sizes.size() == before; ++a) {
        if (!(op.inputs[i].axes[a] == axis)) continue;
        extents.sizes.push_back(inputs[i]->extents.sizes[a]);
        extents.names.push_back(inputs[i]->extents.names[a]);
      }
    }
    if (extents.sizes.size() == before) return std::nullopt;
  }
  return extents;
}

void set_output(OrtShapeInferContext* context, size_t index, ONNXTensorElementDataType type, Extents extents) {
  OrtTensorTypeAndShapeInfo* made = nullptr;
  check(api().CreateTensorTypeAndShapeInfo(&made));
  const auto release = [](OrtTensorTypeAndShapeInfo* p) { api().ReleaseTensorTypeAndShapeInfo(p); };
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> owner(made, release);
  check(api().SetTensorElementType(made, type));
  check(api().SetDimensions(made, extents.sizes.data(), extents.sizes.size()));
  check(api().SetSymbolicDimensions(made, extents.names.data(), extents.names.size()));
  check(api().ShapeInferContext_SetOutputTypeShape(context, index, made));
}

}  // namespace

void infer_shapes(const Op& op, OrtShapeInferContext* context) {
  Inputs inputs;
  for (const int position : positions(op, listed_inputs(context))) {
    const Tensor& described = op.inputs[inputs.size()];
    const size_t rank = is_window(context, described) ? 3 : described.axes.size();
    std::optional<Input> found = input(context, position);
    if (found && found->extents.sizes.size() != rank) {
      found->extents = {};
    } else if (found && is_window(context, described)) {
      found->extents.sizes.resize(2), found->extents.names.resize(2);
    }
    inputs.push_back(std::move(found));
  }
  if (!inputs[0]) return;
  Sizes stated;
  for (size_t i = 2; i < op.sizes.size(); ++i) stated[int(i)] = whole(context, op.sizes[i].name);
  for (const Attribute& each : op.attributes) {
    if (each.size != Axis::kNone && stated[each.size] < 0) stated[each.size] = int64_t(each.fallback);
  }
  const ONNXTensorElementDataType t = inputs[0]->type;
  for (size_t i = 0; i < op.outputs.size(); ++i) {
    const Tensor& output = op.outputs[i];
    std::optional<Extents> extents = extents_of(op, output, inputs, stated);
    if (extents) set_output(context, i, type_of(context, output, t), std::move(*extents));
  }
}

}  // namespace seqexport::ort
