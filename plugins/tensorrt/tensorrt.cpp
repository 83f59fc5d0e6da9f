#include "tensorrt.h"

namespace seqexport::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;

Type type_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return Type::kFloat32;
    case DataType::kHALF: return Type::kFloat16;
    case DataType::kINT32: return Type::kInt32;
    case DataType::kINT8: return Type::kInt8;
    case DataType::kBOOL: return Type::kBool;
#if NV_TENSORRT_MAJOR > 8
    case DataType::kBF16: return Type::kBfloat16;
    case DataType::kINT64: return Type::kInt64;
#endif
    default: return Type::kOther;
  }
}

Shape shape_of(const nvinfer1::Dims& dims) { return {dims.d, dims.d + dims.nbDims}; }

Shape shape_of(const nvinfer1::DimsExprs& dims) {
  Shape shape;
  for (int i = 0; i < dims.nbDims; ++i) shape.push_back(dims.d[i]->isConstant() ? dims.d[i]->getConstantValue() : -1);
  return shape;
}

Value value_of(const nvinfer1::PluginField& field) {
  const std::string name = field.name;
  if (!field.data && field.length > 0) throw Refusal("attribute '" + name + "' has no value");
  const auto scalar = [&](auto zero) {
    if (field.length != 1) throw Refusal("attribute '" + name + "' must be one value, not a list");
    return double(*static_cast<const decltype(zero)*>(field.data));
  };
  switch (field.type) {
    case PluginFieldType::kINT32: return scalar(int32_t());
    case PluginFieldType::kFLOAT32: return scalar(float());
    case PluginFieldType::kFLOAT64: return scalar(double());
#if NV_TENSORRT_MAJOR > 8
    case PluginFieldType::kINT64: return scalar(int64_t());
#endif
    case PluginFieldType::kCHAR: {  // with or without a zero at the end
      std::string text(static_cast<const char*>(field.data), size_t(field.length));
      while (!text.empty() && text.back() == '\0') text.pop_back();
      return text;
    }
    default: throw Refusal("attribute '" + name + "' must be an integer, a float or a string");
  }
}

}  // namespace

FieldNames::FieldNames(const Op& op) : placed_(placement_attributes(op)) {
  static constexpr PluginFieldType kinds[] = {PluginFieldType::kINT32, PluginFieldType::kFLOAT32,
                                              PluginFieldType::kCHAR};
  for (const Attribute& attribute : op.attributes) fields_.emplace_back(attribute.name, nullptr, kinds[attribute.kind]);
  for (const std::string& name : placed_) fields_.emplace_back(name.c_str(), nullptr, PluginFieldType::kINT32);
  for (const char* name : {kInputsAttribute, kOutputsAttribute, kTypeAttribute}) {
    fields_.emplace_back(name, nullptr, PluginFieldType::kCHAR);
  }
  collection_ = {int32_t(fields_.size()), fields_.data()};
}

std::vector<AttributeField> fields_of(const nvinfer1::PluginFieldCollection* collection) {
  std::vector<AttributeField> fields;
  for (int i = 0; collection && i < collection->nbFields; ++i) {
    fields.push_back({collection->fields[i].name, value_of(collection->fields[i])});
  }
  return fields;
}

Type check_types(const Node& node, const DataType* types, int count) {
  std::vector<Type> came;
  for (int i = 0; i < count; ++i) came.push_back(type_of(types[i]));
  return node.check_types(came);
}

DataType output_type(const Node& node, int index, Type type) {
  const char kind = node.kind(node.output(index));
  if (kind == 'I') return DataType::kINT32;
  if (kind == 'F') return DataType::kFLOAT;
#if NV_TENSORRT_MAJOR > 8
  if (type == Type::kBfloat16) return DataType::kBF16;
#endif
  return type == Type::kFloat16 ? DataType::kHALF : DataType::kFLOAT;
}

void check_shapes(const Node& node, const nvinfer1::DimsExprs* inputs, int count) {
  std::vector<Shape> shapes;
  for (int i = 0; i < count; ++i) shapes.push_back(shape_of(inputs[i]));
  node.check_shapes(shapes);
}

Sizes check_shapes(const Node& node, const nvinfer1::PluginTensorDesc* inputs, int count) {
  std::vector<Shape> shapes;
  for (int i = 0; i < count; ++i) shapes.push_back(shape_of(inputs[i].dims));
  return node.check_shapes(shapes);
}

void check_shapes(const Node& node, const nvinfer1::DynamicPluginTensorDesc* inputs, int count) {
  std::vector<Shape> shapes;
  for (int i = 0; i < count; ++i) shapes.push_back(shape_of(inputs[i].desc.dims));
  node.check_shapes(shapes);
}

nvinfer1::DimsExprs output_shape(const Node& node, int index, const nvinfer1::DimsExprs* inputs,
                                 nvinfer1::IExprBuilder& builder) {
  const std::vector<Axis>& axes = node.output(index).axes;
  nvinfer1::DimsExprs shape = {};
  shape.nbDims = int32_t(axes.size());
  for (size_t i = 0; i < axes.size(); ++i) {
    const auto source = axes[i].size == Axis::kNone ? std::nullopt : node.source(axes[i]);
    if (source) {
      shape.d[i] = inputs[source->first].d[source->second];
    } else {
      shape.d[i] = builder.constant(axes[i].size == Axis::kNone ? axes[i].offset
                                                                : node.stated(axes[i].size) + axes[i].offset);
    }
  }
  return shape;
}

bool supports(const Node& node, int position, const nvinfer1::PluginTensorDesc& tensor,
              const nvinfer1::PluginTensorDesc& first) {
  if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
  const char kind = node.kind(node.tensor(position));
  const Type type = type_of(tensor.type);
  if (kind == 'I') return type == Type::kInt32;
  if (kind == 'F') return type == Type::kFloat32;
  const bool is_t = type == Type::kFloat32 || type == Type::kFloat16 || type == Type::kBfloat16;
  return is_t && tensor.type == first.type;
}

void enqueue(const Node& node, const nvinfer1::PluginTensorDesc* descs, const void* const* inputs,
             void* const* outputs, void* workspace, cudaStream_t stream) {
  const Sizes sizes = check_shapes(node, descs, node.input_count());
  node.launch(type_of(descs[0].type), sizes, inputs, outputs, workspace, stream);
}

}  // namespace seqexport::tensorrt
