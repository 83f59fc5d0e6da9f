#include "plugin_node.h"

#include <algorithm>
#include <cstdlib>

namespace seqexport::tensorrt {
namespace {

constexpr char kFormat[] = "seqexport-plugin 2";  // the number changes with the lines that follow it

constexpr size_t kHeadLines = 5;              // those before the attributes

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
  if (listed_outputs_.empty()) return;
  const std::vector<int> named = named_outputs(op(), listed_outputs_);
  if (!std::includes(outputs_.begin(), outputs_.end(), named.begin(), named.end())) {
    throw Refusal("attribute 'outputs' names one without the input that brings it, in " + quoted(listed_outputs_));
  }
  outputs_ = named;
}

void Node::set_attribute(const AttributeField& field) {
  if (field.name == kTypeAttribute) return set_type(field.value);
  const bool is_inputs = field.name == kInputsAttribute;
  if (!is_inputs && field.name != kOutputsAttribute) return set(field.name, field.value);
  const std::string* names = std::get_if<std::string>(&field.value);
  if (!names) {
    throw Refusal("attribute " + quoted(field.name) + " must be names of " + field.name + ", got " +
                  written(field.value));
  }
  if (is_inputs) {
    inputs_ = named_inputs(op(), *names);
  } else {
    listed_outputs_ = *names;
  }
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

// Format, op, inputs, outputs, placements, then the attributes, a line each.
std::string Node::serialise() const {
  std::vector<std::string> outputs, placed;
  for (const int place : outputs_) outputs.push_back(op().outputs[size_t(place)].name);
  for (const auto& [name, value] : placements()) placed.push_back(name + "=" + std::to_string(value));
  std::vector<std::string> lines = {kFormat, op().name, input_names(","), joined(outputs, ","), joined(placed, ",")};
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
  if (lines[0] != kFormat || lines.size() != kHeadLines + op.attributes.size()) {
    throw Refusal(reason + "of format " + quoted(lines[0]) + ", expected " + quoted(kFormat) + "; rebuild the engine");
  }
  if (lines[1] != op.name) throw Refusal(reason + "that of a " + lines[1] + "; rebuild the engine");
  std::vector<AttributeField> fields = {{kInputsAttribute, lines[2]}, {kOutputsAttribute, lines[3]}};
  for (const std::string& placed : split(lines[4], ',')) {
    const size_t end = placed.find('=');
    if (end != std::string::npos) fields.push_back({placed.substr(0, end), std::atof(placed.c_str() + end + 1)});
  }
  Node node(op, std::move(name), fields);
  for (size_t i = 0; i < op.attributes.size(); ++i) node.set(i, std::strtod(lines[kHeadLines + i].c_str(), nullptr));
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

std::optional<std::pair<int, int>> Node::source(const Axis& axis) const {
  if (stated(axis.size) >= 0) return std::nullopt;
  for (int position = 0; position < input_count(); ++position) {
    const std::vector<Axis>& axes = input(position).axes;
    const size_t whole = is_window(size_t(inputs_[size_t(position)])) ? 2 : axes.size();
    for (size_t i = 0; i < whole; ++i) {
      if (axes[i] == axis) return std::pair(position, int(i));
    }
  }
  throw Refusal("attribute " + quoted(op().sizes[size_t(axis.size)].name) +
                " must say what it is: every input that has it is a window of another tensor");
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
