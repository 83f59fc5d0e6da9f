#include "plugin_node.h"

#include <cstdlib>

namespace seqexport::tensorrt {
namespace {

constexpr char kFormat[] = "seqexport-plugin 1";  // the number changes with the lines that follow it

// FNV-1a: tells a damaged text from a whole one.
std::string checksum(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ uint8_t(c)) * 0x100000001b3u;
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

}  // namespace

Node::Node(const Op& op, std::string name, const std::vector<AttributeField>& fields)
    : seqexport::Node(op, Device::kCuda), name_(std::move(name)) {
  for (size_t i = 0; i < op.inputs.size(); ++i) inputs_.push_back(int(i));
  for (const AttributeField& field : fields) set_attribute(field);
  settle_tensors();
}

void Node::settle_tensors() {
  std::vector<bool> is_given(op().inputs.size());
  for (const int place : inputs_) is_given[size_t(place)] = true;
  check_given(is_given);
  for (size_t i = 0; i < op().outputs.size(); ++i) {
    if (has_output(op(), op().outputs[i], is_given)) outputs_.push_back(int(i));
  }
}

void Node::set_attribute(const AttributeField& field) {
  if (field.name == kTypeAttribute) return set_type(field.value);
  if (field.name != kInputsAttribute) return set(field.name, field.value);
  const std::string* names = std::get_if<std::string>(&field.value);
  if (!names) throw Refusal("attribute 'inputs' must be names of inputs, got " + written(field.value));
  inputs_ = named_inputs(op(), *names);
}

void Node::set_type(const Value& value) {
  const std::string* word = std::get_if<std::string>(&value);
  for (const Type type : {Type::kFloat32, Type::kFloat16, Type::kBfloat16}) {
    if (word && *word == type_name(type)) declared_type_ = type;
  }
  if (declared_type_ == Type::kOther) {
    throw Refusal("attribute 'T' must be float32, float16 or bfloat16, got " + written(value));
  }
}

std::string Node::input_names(const char* separator) const {
  std::vector<std::string> names;
  for (int position = 0; position < input_count(); ++position) names.push_back(input(position).name);
  return joined(names, separator);
}

std::string Node::serialise() const {
  std::vector<std::string> lines = {kFormat, op().name, input_names(",")};
  for (size_t i = 0; i < op().attributes.size(); ++i) lines.push_back(number(attribute(i)));
  const std::string text = joined(lines, "\n");
  return text + "\n" + checksum(text);
}

Node Node::restored(const Op& op, std::string name, std::string_view text) {
  const std::string reason = "its serialised state in the engine is ";
  const size_t end = text.rfind('\n');
  if (end == std::string_view::npos || checksum(text.substr(0, end)) != text.substr(end + 1)) {
    throw Refusal(reason + "damaged (" + std::to_string(text.size()) + " bytes, wrong checksum); rebuild the engine");
  }
  const std::vector<std::string> lines = split(text.substr(0, end), '\n');
  if (lines[0] != kFormat || lines.size() != 3 + op.attributes.size()) {
    throw Refusal(reason + "of format " + quoted(lines[0]) + ", expected " + quoted(kFormat) + "; rebuild the engine");
  }
  if (lines[1] != op.name) throw Refusal(reason + "that of a " + lines[1] + "; rebuild the engine");
  Node node(op, std::move(name), {{kInputsAttribute, lines[2]}});
  for (size_t i = 0; i < op.attributes.size(); ++i) node.set(i, std::strtod(lines[3 + i].c_str(), nullptr));
  return node;
}

const Tensor& Node::tensor(int position) const {
  return position < input_count() ? input(position) : output(position - input_count());
}

template <typename T>
Given<T> Node::by_place(const std::vector<T>& given) const {
  if (given.size() != inputs_.size()) {
    throw Refusal("expected " + std::to_string(inputs_.size()) + " inputs (" + input_names(", ") + "), got " +
                  std::to_string(given.size()) + "; attribute 'inputs' names those that are present");
  }
  Given<T> placed(op().inputs.size());
  for (size_t i = 0; i < given.size(); ++i) placed[size_t(inputs_[i])] = given[i];
  return placed;
}

void Node::require_outputs(int came) const {
  if (came == output_count()) return;
  throw Refusal("expected " + std::to_string(output_count()) + " outputs, got " + std::to_string(came));
}

Type Node::check_types(const std::vector<Type>& types) const {
  const Type type = seqexport::Node::check_types(by_place(types));
  if (declared_type_ == Type::kOther || type == declared_type_) return type;
  int first = 0;
  while (kind(input(first)) != 'T') ++first;
  throw Refusal("input " + quoted(input(first).name) + " must be " + type_name(declared_type_) +
                " by attribute 'T', got " + type_name(type));
}

Sizes Node::check_shapes(const std::vector<Shape>& shapes) const {
  return seqexport::Node::check_shapes(by_place(shapes));
}

std::pair<int, int> Node::source(const Axis& axis) const {
  for (int position = 0; position < input_count(); ++position) {
    const std::vector<Axis>& axes = input(position).axes;
    for (size_t i = 0; i < axes.size(); ++i) {
      if (axes[i] == axis) return {position, int(i)};
    }
  }
  throw std::logic_error("an output's axis is not an input's");
}

void Node::launch(Type type, const Sizes& sizes, const void* const* inputs, void* const* outputs, void* workspace,
                  void* stream) const {
  std::array<const void*, kMaxInputs> placed_inputs = {};
  std::array<void*, kMaxOutputs> placed_outputs = {};
  for (size_t i = 0; i < inputs_.size(); ++i) placed_inputs[size_t(inputs_[i])] = inputs[i];
  for (size_t i = 0; i < outputs_.size(); ++i) placed_outputs[size_t(outputs_[i])] = outputs[i];
  Params params;
  fill(params.bytes, type, sizes, placed_inputs.data(), placed_outputs.data());
  if (const Workspace& wanted = op().workspace; wanted.data) {
    wanted.data.of<void*>(params.bytes) = workspace;
    wanted.bytes.of<size_t>(params.bytes) = wanted.most;
  }
  if (const int error = op().launch(params.bytes, stream)) throw Refusal(launch_fault(error));
}

}  // namespace seqexport::tensorrt
