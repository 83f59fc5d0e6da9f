#include "kernel.h"

#include <cstring>

#include "launch.h"

namespace seqexport::ort {
namespace {

Type type_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return Type::kFloat32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return Type::kFloat16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return Type::kBfloat16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return Type::kFloat64;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8: return Type::kInt8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16: return Type::kInt16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return Type::kInt32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return Type::kInt64;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return Type::kUint8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16: return Type::kUint16;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32: return Type::kUint32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64: return Type::kUint64;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return Type::kBool;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING: return Type::kString;
    default: return Type::kOther;
  }
}

// Type and shape of a tensor, released when done.
class Described {
 public:
  explicit Described(const OrtValue* value) { check(api().GetTensorTypeAndShape(value, &info_)); }
  ~Described() { api().ReleaseTensorTypeAndShapeInfo(info_); }
  Described(const Described&) = delete;
  Described& operator=(const Described&) = delete;

  Type type() const {
    ONNXTensorElementDataType type;
    check(api().GetTensorElementType(info_, &type));
    return type_of(type);
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

void* data_of(const OrtValue* value) {
  void* data = nullptr;
  check(api().GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return data;
}

// What a status of reading an attribute says.
enum class Read { kValue, kAbsent, kOtherType };

Read outcome(OrtStatus* status) {
  if (status == nullptr) return Read::kValue;
  const bool is_absent = std::strstr(api().GetErrorMessage(status), "No attribute") != nullptr;
  api().ReleaseStatus(status);
  return is_absent ? Read::kAbsent : Read::kOtherType;
}

Read read_text(const OrtKernelInfo* info, const char* name, Value& value) {
  size_t size = 0;
  const Read read = outcome(api().KernelInfoGetAttribute_string(info, name, nullptr, &size));
  if (read != Read::kValue) return read;
  std::string text(size, '\0');
  check(api().KernelInfoGetAttribute_string(info, name, text.data(), &size));
  text.resize(std::strlen(text.c_str()));
  value = text;
  return read;
}

Read read_whole(const OrtKernelInfo* info, const char* name, Value& value) {
  int64_t whole = 0;
  const Read read = outcome(api().KernelInfoGetAttribute_int64(info, name, &whole));
  if (read == Read::kValue) value = double(whole);
  return read;
}

Read read_attribute(const OrtKernelInfo* info, const Attribute& attribute, Value& value) {
  if (attribute.kind == Attribute::kChoice) return read_text(info, attribute.name, value);
  if (attribute.kind == Attribute::kInt) return read_whole(info, attribute.name, value);
  float real = 0;
  const Read read = outcome(api().KernelInfoGetAttribute_float(info, attribute.name, &real));
  if (read == Read::kValue) value = double(real);
  return read;
}

std::vector<int> read_positions(const Op& op, const OrtKernelInfo* info) {
  Value listed = std::string();
  if (read_text(info, kInputsAttribute, listed) == Read::kOtherType) {
    throw Refusal("attribute 'inputs' must be names of inputs, got another type");
  }
  return positions(op, std::get<std::string>(listed));
}

}  // namespace

std::vector<int> positions(const Op& op, const std::string& listed) {
  std::vector<int> places(op.inputs.size(), -1);
  if (listed.empty()) {
    for (size_t i = 0; i < places.size(); ++i) places[i] = int(i);
    return places;
  }
  const std::vector<int> named = named_inputs(op, listed);
  for (size_t position = 0; position < named.size(); ++position) places[size_t(named[position])] = int(position);
  return places;
}

Kernel::Kernel(const Op& op, Device device, const OrtKernelInfo* info)
    : node_(op, device), device_(device), positions_(read_positions(op, info)) {
  for (const Attribute& attribute : op.attributes) {
    Value value;
    if (read_attribute(info, attribute, value) != Read::kAbsent) node_.set(attribute.name, value);
  }
  for (const std::string& name : placement_attributes(op)) {
    Value value;
    if (read_whole(info, name.c_str(), value) != Read::kAbsent) node_.set(name, value);
  }
}

// By place in Op::inputs. Data is on the device.
struct Kernel::Inputs {
  std::array<const void*, kMaxInputs> data = {};
  std::vector<bool> is_given;
  Given<Type> types;
  Given<Shape> shapes;
};

Kernel::Inputs Kernel::inputs(OrtKernelContext* context) const {
  size_t count = 0;
  check(api().KernelContext_GetInputCount(context, &count));
  const size_t places = positions_.size();
  Inputs all = {{}, std::vector<bool>(places), Given<Type>(places), Given<Shape>(places)};
  for (size_t i = 0; i < places; ++i) {
    const OrtValue* value = nullptr;
    if (positions_[i] >= 0 && size_t(positions_[i]) < count) {
      check(api().KernelContext_GetInput(context, size_t(positions_[i]), &value));
    }
    if (value == nullptr) continue;
    const Described described(value);
    all.data[i] = data_of(value), all.is_given[i] = true;
    all.types[i] = described.type(), all.shapes[i] = described.shape();
  }
  return all;
}

std::array<void*, kMaxOutputs> Kernel::outputs(OrtKernelContext* context, const Sizes& sizes,
                                               const std::vector<bool>& is_given) const {
  size_t came = 0, most = 0, least = 0;
  check(api().KernelContext_GetOutputCount(context, &came));
  for (const Tensor& output : op().outputs) {
    const bool is_there = has_output(op(), output, is_given);
    most += is_there, least += is_there && (output.needs || !output.is_optional);
  }
  if (came < least || came > most) {
    throw Refusal("expected " + std::to_string(most) + " outputs, got " + std::to_string(came));
  }
  std::array<void*, kMaxOutputs> data = {};
  for (size_t i = 0; i < came; ++i) {
    Shape shape;
    for (const Axis& axis : op().outputs[i].axes) shape.push_back(axis.length(sizes));
    OrtValue* value = nullptr;
    check(api().KernelContext_GetOutput(context, i, shape.data(), shape.size(), &value));
    if (value) data[i] = data_of(value);
    if (!value && i < least) {
      throw Refusal("output " + quoted(op().outputs[i].name) + " is missing; it is not optional");
    }
  }
  return data;
}

void Kernel::compute(OrtKernelContext* context) const {
  const Inputs given = inputs(context);
  node_.check_given(given.is_given);
  const Type type = node_.check_types(given.types);
  const Sizes sizes = node_.check_shapes(given.shapes);
  const std::array<void*, kMaxOutputs> made = outputs(context, sizes, given.is_given);
  Params params;
  node_.fill(params.bytes, type, sizes, given.data.data(), made.data());
  launch(op(), device_, context, params.bytes);
}

}  // namespace seqexport::ort
