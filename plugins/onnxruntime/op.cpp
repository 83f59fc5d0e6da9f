#include "op.h"

#include <cstring>

namespace seqexport::ort {
namespace {

const char* type_name(ONNXTensorElementDataType type) {
  static const char* const names[] = {"undefined", "float32", "uint8",   "int8",    "uint16",    "int16",
                                      "int32",     "int64",   "string",  "bool",    "float16",   "float64",
                                      "uint32",    "uint64",  "complex64", "complex128", "bfloat16"};
  return static_cast<size_t>(type) < sizeof names / sizeof *names ? names[type] : "an unknown type";
}

bool is_activation_type(ONNXTensorElementDataType type) {
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT || type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16 ||
         type == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
}

// Type and shape of a tensor, released when done.
class Described {
 public:
  explicit Described(const OrtValue* value) { check(api().GetTensorTypeAndShape(value, &info_)); }
  ~Described() { api().ReleaseTensorTypeAndShapeInfo(info_); }
  Described(const Described&) = delete;
  Described& operator=(const Described&) = delete;

  ONNXTensorElementDataType type() const {
    ONNXTensorElementDataType type;
    check(api().GetTensorElementType(info_, &type));
    return type;
  }
  Shape shape() const {
    size_t rank = 0;
    check(api().GetDimensionsCount(info_, &rank));
    Shape shape(rank);
    check(api().GetDimensions(info_, shape.data(), rank));
    return shape;
  }

 private:
  OrtTensorTypeAndShapeInfo* info_ = nullptr;
};

}  // namespace

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Call::Call(const OpInfo& op, const std::vector<int>& positions, OrtKernelContext* context)
    : op_(op), positions_(positions), context_(context) {}

Tensor Call::input(size_t index, size_t rank) {
  const Input& input = op_.inputs()[index];
  const int position = positions_[index];
  size_t count = 0;
  check(api().KernelContext_GetInputCount(context_, &count));
  const OrtValue* value = nullptr;
  if (position >= 0 && static_cast<size_t>(position) < count) {
    check(api().KernelContext_GetInput(context_, position, &value));
  }
  if (value == nullptr) {
    if (!input.optional) refuse(std::string("input ") + input.name + " is missing; it is not optional");
    return {&input, nullptr, {}};
  }
  const Described described(value);
  check_type(input, described.type());
  Tensor tensor{&input, nullptr, described.shape()};
  if (tensor.shape.size() != rank) {
    refuse(std::string("input ") + input.name + ": expected " + std::to_string(rank) + " axes, got shape " +
           to_string(tensor.shape));
  }
  void* data = nullptr;
  check(api().GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  tensor.data = data;
  return tensor;
}

void Call::check_type(const Input& input, ONNXTensorElementDataType came) {
  const Kind kind = settled(input.kind);
  if (kind == Kind::F && came != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) refuse_type(input, came);
  if (kind == Kind::I && came != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32) refuse_type(input, came);
  if (kind != Kind::T) return;
  if (type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED && is_activation_type(came)) type_ = came;
  if (came != type_) refuse_type(input, came);
}

Kind Call::settled(Kind kind) const { return kind != Kind::S ? kind : wide_ ? Kind::F : Kind::T; }

void Call::refuse_type(const Input& input, ONNXTensorElementDataType came) const {
  const Kind kind = settled(input.kind);
  std::string expected = kind == Kind::F ? "float32" : "int32";
  if (kind == Kind::T) {
    expected = type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED
                   ? "float32, float16 or bfloat16"
                   : std::string(type_name(type_)) + " as the inputs before it";
  }
  refuse(std::string("input ") + input.name + ": expected " + expected + ", got " + type_name(came));
}

void Call::require_shape(const Tensor& tensor, const std::vector<Axis>& axes) const {
  if (tensor.data == nullptr && tensor.shape.empty()) return;
  bool equal = tensor.shape.size() == axes.size();
  for (size_t i = 0; equal && i < axes.size(); ++i) equal = tensor.shape[i] == axes[i].size;
  if (equal) return;
  std::string names, sizes;
  for (size_t i = 0; i < axes.size(); ++i) {
    names += (i ? ", " : "") + std::string(axes[i].name);
    sizes += (i ? ", " : "") + std::to_string(axes[i].size);
  }
  refuse(std::string("input ") + tensor.input->name + ": expected [" + names + "] = [" + sizes + "], got " +
         to_string(tensor.shape));
}

void Call::require_size(const char* input, const Axis& axis, int64_t low, int64_t high) const {
  if (low <= axis.size && axis.size <= high) return;
  refuse(std::string("input ") + input + ": expected " + axis.name + " in " + std::to_string(low) + " to " +
         std::to_string(high) + ", got " + std::to_string(axis.size));
}

void Call::require_sizes(const Tensor& tensor, const std::vector<Axis>& axes) const {
  for (const Axis& axis : axes) require_size(tensor.input->name, axis, 1, INT32_MAX);
}

void Call::require_outputs(size_t count) const {
  size_t came = 0;
  check(api().KernelContext_GetOutputCount(context_, &came));
  if (came != count) refuse("outputs: expected " + std::to_string(count) + ", got " + std::to_string(came));
}

std::string Call::name() const { return op_.name(); }

void* Call::output(size_t index, const Shape& shape) {
  OrtValue* value = nullptr;
  check(api().KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
  if (value == nullptr) {
    if (!op_.outputs()[index].optional) refuse("output " + std::to_string(index) + " is missing; it is not optional");
    return nullptr;
  }
  void* data = nullptr;
  check(api().GetTensorMutableData(value, &data));
  return data;
}

int32_t Call::dtype() const {
  if (type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) return SEQEXPORT_FLOAT16;
  return type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16 ? SEQEXPORT_BFLOAT16 : SEQEXPORT_FLOAT32;
}

void Call::refuse(const std::string& message) const {
  throw Refused(ORT_INVALID_ARGUMENT, std::string(op_.name()) + ": " + message);
}

void Attributes::refuse(const std::string& message) const {
  throw Refused(ORT_INVALID_ARGUMENT, std::string(op_.name()) + ": " + message);
}

// Whether `status` says that there is no such attribute; throws where it says anything else.
bool Attributes::absent(const char* name, const char* expected, OrtStatus* status) const {
  if (status == nullptr) return false;
  const bool none = std::strstr(api().GetErrorMessage(status), "No attribute") != nullptr;
  api().ReleaseStatus(status);
  if (!none) refuse(std::string("attribute ") + name + ": expected " + expected + ", got another type");
  return true;
}

int64_t Attributes::integer(const char* name, int64_t standard) const {
  int64_t value = 0;
  return absent(name, "an integer", api().KernelInfoGetAttribute_int64(info_, name, &value)) ? standard : value;
}

float Attributes::number(const char* name, float standard) const {
  float value = 0;
  return absent(name, "a float", api().KernelInfoGetAttribute_float(info_, name, &value)) ? standard : value;
}

std::string Attributes::text(const char* name, const char* standard) const {
  size_t size = 0;
  if (absent(name, "a string", api().KernelInfoGetAttribute_string(info_, name, nullptr, &size))) return standard;
  std::string value(size, '\0');
  check(api().KernelInfoGetAttribute_string(info_, name, value.data(), &size));
  value.resize(std::strlen(value.c_str()));
  return value;
}

// Null where the input is absent or its shape unknown. Owned by the context.
OrtTensorTypeAndShapeInfo* ShapeRule::input(size_t index) const {
  size_t count = 0;
  check(api().ShapeInferContext_GetInputCount(context_, &count));
  const int position = positions_[index];
  if (position < 0 || static_cast<size_t>(position) >= count) return nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  if (OrtStatus* status = api().ShapeInferContext_GetInputTypeShape(context_, position, &info)) {
    api().ReleaseStatus(status);
    return nullptr;
  }
  ONNXTensorElementDataType type;
  check(api().GetTensorElementType(info, &type));
  return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED ? nullptr : info;  // which an absent input has
}

void ShapeRule::same(size_t output, size_t source) const {
  if (const auto* info = input(source)) check(api().ShapeInferContext_SetOutputTypeShape(context_, output, info));
}

void ShapeRule::same_if_not_wide(size_t output, size_t source) const {
  if (!is_wide()) return same(output, source);
  const auto* like = input(source);
  if (like == nullptr) return;
  size_t rank = 0;
  check(api().GetDimensionsCount(like, &rank));
  Shape sizes(rank);
  std::vector<const char*> names(rank);
  check(api().GetDimensions(like, sizes.data(), rank));
  check(api().GetSymbolicDimensions(like, names.data(), rank));
  set(output, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, sizes, names);
}

bool ShapeRule::is_wide() const {
  const OrtOpAttr* attribute = nullptr;
  if (OrtStatus* status = api().ShapeInferContext_GetAttribute(context_, "wide", &attribute)) {
    api().ReleaseStatus(status);
    return false;
  }
  int64_t wide = 0;
  size_t size = sizeof wide;
  check(api().ReadOpAttr(attribute, ORT_OP_ATTR_INT, &wide, size, &size));
  return wide == 1;
}

void ShapeRule::of_axes(size_t output, size_t typed, const std::vector<AxisOf>& axes) const {
  const auto* like = input(typed);
  if (like == nullptr) return;
  ONNXTensorElementDataType type;
  check(api().GetTensorElementType(like, &type));
  Shape sizes;
  std::vector<const char*> names;
  for (const AxisOf& each : axes) {
    sizes.push_back(1);
    names.push_back("");
    if (each.input == kOne.input) continue;
    const auto* info = input(each.input);
    size_t rank = 0;
    if (info) check(api().GetDimensionsCount(info, &rank));
    if (each.axis >= rank) return;
    Shape all(rank);
    std::vector<const char*> all_names(rank);
    check(api().GetDimensions(info, all.data(), rank));
    check(api().GetSymbolicDimensions(info, all_names.data(), rank));
    sizes.back() = all[each.axis];
    names.back() = all_names[each.axis];
  }
  set(output, type, sizes, names);
}

void ShapeRule::set(size_t output, ONNXTensorElementDataType type, const Shape& sizes,
                    std::vector<const char*>& names) const {
  OrtTensorTypeAndShapeInfo* made = nullptr;
  check(api().CreateTensorTypeAndShapeInfo(&made));
  const auto release = [](OrtTensorTypeAndShapeInfo* p) { api().ReleaseTensorTypeAndShapeInfo(p); };
  const std::unique_ptr<OrtTensorTypeAndShapeInfo, decltype(release)> owner(made, release);
  check(api().SetTensorElementType(made, type));
  check(api().SetDimensions(made, sizes.data(), sizes.size()));
  check(api().SetSymbolicDimensions(made, names.data(), names.size()));
  check(api().ShapeInferContext_SetOutputTypeShape(context_, output, made));
}

}  // namespace seqexport::ort
