#include "node.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace seqexport::tensorrt {
namespace {

constexpr char kFormat[] = "seqexport-plugin 1";  // the number changes with the lines that follow it

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    parts.emplace_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string joined(const std::vector<std::string>& parts, const char* separator) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : separator) + part;
  return text;
}

std::string number(double value) {
  char text[40];
  std::snprintf(text, sizeof text, "%.17g", value);
  return text;
}

// "[B, L, D=64, K-1=3]"
std::string expected(const Op& op, const Tensor& tensor, const Sizes& sizes) {
  std::vector<std::string> parts;
  for (const Axis& axis : tensor.shape) {
    std::string part = op.sizes[size_t(axis.size)].name;
    if (axis.offset != 0) part += std::to_string(axis.offset);
    if (sizes[axis.size] >= 0) part += "=" + std::to_string(sizes[axis.size] + axis.offset);
    parts.push_back(part);
  }
  return "[" + joined(parts, ", ") + "]";
}

std::string written(const Shape& shape) {
  std::vector<std::string> parts;
  for (const int64_t extent : shape) parts.push_back(extent < 0 ? "?" : std::to_string(extent));
  return "[" + joined(parts, ", ") + "]";
}

std::string choices(const Attribute& attribute) {
  return joined({attribute.choices.begin(), attribute.choices.end()}, " or ");
}

// FNV-1a: tells a damaged text from a whole one.
std::string checksum(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ uint8_t(c)) * 0x100000001b3u;
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(hash));
  return digits;
}

bool admits(char kind, Type type) {
  if (kind == 'I') return type == Type::kInt32;
  return type == Type::kFloat32 || (kind == 'T' && (type == Type::kFloat16 || type == Type::kBfloat16));
}

const char* admitted(char kind) {
  return kind == 'I' ? "int32" : kind == 'F' ? "float32" : "float32, float16 or bfloat16";
}

}  // namespace

const char* type_name(Type type) {
  static const char* const names[] = {"float32", "float16", "bfloat16", "int32", "int64", "int8", "bool"};
  return type == Type::kOther ? "a type that no op takes" : names[int(type)];
}

Node::Node(const Op& op, std::string name, const std::vector<Field>& fields) : op_(&op), name_(std::move(name)) {
  for (size_t i = 0; i < op.attributes.size(); ++i) attributes_[i] = op.attributes[i].fallback;
  for (size_t i = 0; i < op.inputs.size(); ++i) inputs_.push_back(int(i));
  for (const Field& field : fields) set_attribute(field);
  settle_tensors();
}

bool Node::has_input(const char* name) const {
  const auto is_named_so = [&](int i) { return std::string_view(op_->inputs[size_t(i)].name) == name; };
  return std::any_of(inputs_.begin(), inputs_.end(), is_named_so);
}

void Node::settle_tensors() {
  for (int position = 0; position < input_count(); ++position) {
    const Tensor& tensor = input(position);
    if (tensor.needs && !has_input(tensor.needs)) {
      throw Refusal("input " + quoted(tensor.name) + " must come with input " + quoted(tensor.needs) +
                    ", got it without; attribute 'inputs' names those that are present");
    }
  }
  for (size_t i = 0; i < op_->outputs.size(); ++i) {
    const char* needs = op_->outputs[i].needs;
    if (!needs || has_input(needs)) outputs_.push_back(int(i));
  }
}

void Node::set_attribute(const Field& field) {
  const std::string* word = std::get_if<std::string>(&field.value);
  const std::string came = word ? quoted(*word) : number(std::get<double>(field.value));
  const std::string attribute_name = "attribute " + quoted(field.name);
  if (field.name == kTypeAttribute) return set_type(field);
  if (field.name == kInputsAttribute) {
    if (!word) throw Refusal(attribute_name + " must be names of inputs, got " + came);
    return set_inputs(*word);
  }
  for (size_t i = 0; i < op_->attributes.size(); ++i) {
    const Attribute& attribute = op_->attributes[i];
    if (field.name != attribute.name) continue;
    if (attribute.kind == Attribute::kChoice) {
      for (size_t choice = 0; word && choice < attribute.choices.size(); ++choice) {
        if (*word == attribute.choices[choice]) return void(attributes_[i] = double(choice));
      }
      throw Refusal(attribute_name + " must be " + choices(attribute) + ", got " + came);
    }
    const double value = word ? NAN : std::get<double>(field.value);
    const bool whole = attribute.kind == Attribute::kFloat || value == std::floor(value);
    if (!whole || !(attribute.low <= value && value <= attribute.high)) {
      throw Refusal(attribute_name + " must be " + (attribute.kind == Attribute::kInt ? "an integer" : "a number") +
                    " of at least " + number(attribute.low) +
                    (attribute.high < FLT_MAX ? " and at most " + number(attribute.high) : "") + ", got " + came);
    }
    return void(attributes_[i] = value);
  }
  throw Refusal("there is no " + attribute_name);
}

void Node::set_type(const Field& field) {
  const std::string* word = std::get_if<std::string>(&field.value);
  for (const Type type : {Type::kFloat32, Type::kFloat16, Type::kBfloat16}) {
    if (word && *word == type_name(type)) declared_type_ = type;
  }
  if (declared_type_ == Type::kOther) {
    throw Refusal("attribute 'T' must be " + std::string(admitted('T')) + ", got " + (word ? quoted(*word) : "a number"));
  }
}

void Node::set_inputs(const std::string& names) {
  const std::vector<std::string> given = split(names, ',');
  inputs_.clear();
  for (size_t i = 0; i < op_->inputs.size(); ++i) {
    const bool present = inputs_.size() < given.size() && given[inputs_.size()] == op_->inputs[i].name;
    if (present) {
      inputs_.push_back(int(i));
    } else if (!op_->inputs[i].optional) {
      throw Refusal("attribute 'inputs' must name input " + quoted(op_->inputs[i].name) + " in its place, got " +
                    quoted(names));
    }
  }
  if (inputs_.size() < given.size()) {
    throw Refusal("attribute 'inputs' names " + quoted(given[inputs_.size()]) +
                  ", which is no input or out of order, in " + quoted(names));
  }
}

std::string Node::serialise() const {
  std::vector<std::string> names, lines = {kFormat, op_->name};
  for (int position = 0; position < input_count(); ++position) names.push_back(input(position).name);
  lines.push_back(joined(names, ","));
  for (size_t i = 0; i < op_->attributes.size(); ++i) lines.push_back(number(attributes_[i]));
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
  for (size_t i = 0; i < op.attributes.size(); ++i) node.attributes_[i] = std::strtod(lines[3 + i].c_str(), nullptr);
  return node;
}

const Tensor& Node::tensor(int position) const {
  return position < input_count() ? input(position) : output(position - input_count());
}

char Node::kind(const Tensor& tensor) const {
  if (tensor.type != 'S') return tensor.type;
  for (size_t i = 0; i < op_->attributes.size(); ++i) {
    if (std::string_view(op_->attributes[i].name) == kWideAttribute) return attributes_[i] == 1 ? 'F' : 'T';
  }
  throw std::logic_error("an op with a type S has no attribute wide");
}

void Node::require_count(size_t came) const {
  if (came == inputs_.size()) return;
  std::vector<std::string> names;
  for (int position = 0; position < input_count(); ++position) names.push_back(input(position).name);
  throw Refusal("expected " + std::to_string(inputs_.size()) + " inputs (" + joined(names, ", ") + "), got " +
                std::to_string(came) + "; attribute 'inputs' names those that are present");
}

void Node::require_outputs(int came) const {
  if (came == output_count()) return;
  throw Refusal("expected " + std::to_string(output_count()) + " outputs, got " + std::to_string(came));
}

Type Node::check_types(const std::vector<Type>& types) const {
  require_count(types.size());
  int first = -1;
  for (int position = 0; position < input_count(); ++position) {
    const Tensor& tensor = input(position);
    const Type came = types[size_t(position)];
    const auto refuse = [&](const std::string& must) {
      throw Refusal("input " + quoted(tensor.name) + " must be " + must + ", got " + type_name(came));
    };
    if (!admits(kind(tensor), came)) refuse(admitted(kind(tensor)));
    if (kind(tensor) != 'T') continue;
    if (first < 0) first = position;
    const Type type = types[size_t(first)];
    if (came != type) refuse(std::string(type_name(type)) + " as input " + quoted(input(first).name) + " is");
  }
  const Type type = types[size_t(first)];
  if (declared_type_ != Type::kOther && type != declared_type_) {
    throw Refusal("input " + quoted(input(first).name) + " must be " + type_name(declared_type_) +
                  " by attribute 'T', got " + type_name(type));
  }
  return type;
}

void Node::bind(int position, const Shape& shape, Sizes& sizes, std::array<int, kMaxSizes>& givers) const {
  const Tensor& tensor = input(position);
  const auto refuse = [&](const std::string& why) {
    throw Refusal("input " + quoted(tensor.name) + " must be " + expected(*op_, tensor, sizes) + ", got " +
                  written(shape) + why);
  };
  if (shape.size() != tensor.shape.size()) refuse("");
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0) continue;
    const Axis axis = tensor.shape[i];
    const SizeRange& range = op_->sizes[size_t(axis.size)];
    const int64_t value = shape[i] - axis.offset;
    if (value < range.low || value > range.high) {
      refuse("; " + std::string(range.name) + " may be " + std::to_string(range.low) + " to " +
             std::to_string(range.high));
    }
    if (sizes[axis.size] < 0) {
      sizes[axis.size] = value;
      givers[size_t(axis.size)] = position;
    } else if (sizes[axis.size] != value) {
      const int giver = givers[size_t(axis.size)];
      refuse("; " + std::string(range.name) + " is " + std::to_string(sizes[axis.size]) + " by input " +
             quoted(input(giver).name));
    }
  }
}

Sizes Node::check_shapes(const std::vector<Shape>& shapes) const {
  require_count(shapes.size());
  Sizes sizes;
  std::array<int, kMaxSizes> givers = {};
  for (int position = 0; position < input_count(); ++position) {
    bind(position, shapes[size_t(position)], sizes, givers);
  }
  op_->check(sizes);
  return sizes;
}

std::pair<int, int> Node::source(const Axis& axis) const {
  for (int position = 0; position < input_count(); ++position) {
    const std::vector<Axis>& shape = input(position).shape;
    for (size_t i = 0; i < shape.size(); ++i) {
      if (shape[i].size == axis.size && shape[i].offset == axis.offset) return {position, int(i)};
    }
  }
  throw std::logic_error("an output's axis is not an input's");
}

cudaError_t Node::launch(Type type, const Sizes& sizes, const void* const* inputs, void* const* outputs,
                         void* workspace, cudaStream_t stream) const {
  Call call = {type, sizes, attributes_, {}, {}, workspace, op_->workspace, stream};
  for (int position = 0; position < input_count(); ++position) {
    call.inputs[size_t(inputs_[size_t(position)])] = inputs[position];
  }
  for (int position = 0; position < output_count(); ++position) {
    call.outputs[size_t(outputs_[size_t(position)])] = outputs[position];
  }
  return op_->launch(call);
}

}  // namespace seqexport::tensorrt
