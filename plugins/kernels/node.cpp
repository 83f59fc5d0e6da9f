#include "node.h"

#include <algorithm>
#include <cmath>

namespace seqexport {
namespace {

// "[B, L, D=64, K-1=3]", and of a window "[B, L, W]"
std::string expected(const Op& op, const Tensor& tensor, const Sizes& sizes, bool is_window) {
  std::vector<std::string> parts;
  for (size_t i = 0; i < (is_window ? 2 : tensor.axes.size()); ++i) {
    const Axis& axis = tensor.axes[i];
    std::string part = op.sizes[size_t(axis.size)].name;
    if (axis.offset != 0) part += std::to_string(axis.offset);
    if (sizes[axis.size] >= 0) part += "=" + std::to_string(axis.length(sizes));
    parts.push_back(part);
  }
  if (is_window) parts.push_back("W");
  return "[" + joined(parts, ", ") + "]";
}

std::string written(const Shape& shape) {
  std::vector<std::string> parts;
  for (const int64_t extent : shape) parts.push_back(extent < 0 ? "?" : std::to_string(extent));
  return "[" + joined(parts, ", ") + "]";
}

std::string admitted(const Attribute& attribute) {
  if (attribute.kind == Attribute::kChoice) return joined({attribute.choices.begin(), attribute.choices.end()}, " or ");
  return std::string(attribute.kind == Attribute::kInt ? "an integer" : "a finite number") + " of at least " +
         number(attribute.low) + (attribute.high < FLT_MAX ? " and at most " + number(attribute.high) : "");
}

// The value as params hold it; nothing where the attribute does not take it.
std::optional<double> admitted_value(const Attribute& attribute, const Value& value) {
  if (attribute.kind == Attribute::kChoice) {
    const std::string* word = std::get_if<std::string>(&value);
    for (size_t choice = 0; word && choice < attribute.choices.size(); ++choice) {
      if (*word == attribute.choices[choice]) return double(choice);
    }
    return std::nullopt;
  }
  const double* came = std::get_if<double>(&value);
  if (!came || !(attribute.low <= *came && *came <= attribute.high)) return std::nullopt;
  if (attribute.kind == Attribute::kInt && *came != std::floor(*came)) return std::nullopt;
  return *came;
}

bool admits(char kind, Type type) {
  if (kind == 'I') return type == Type::kInt32;
  return type == Type::kFloat32 || (kind == 'T' && (type == Type::kFloat16 || type == Type::kBfloat16));
}

const char* admitted(char kind) {
  return kind == 'I' ? "int32" : kind == 'F' ? "float32" : "float32, float16 or bfloat16";
}

int64_t element_bytes(char kind, Type type) { return kind == 'T' ? seqexport_element_bytes(int32_t(type)) : 4; }

bool has_axis(const Tensor& tensor, int size) {
  return std::any_of(tensor.axes.begin(), tensor.axes.end(), [=](const Axis& axis) { return axis.size == size; });
}

// Its place among the op's inputs.
size_t place_of(const Op& op, std::string_view input) {
  size_t place = 0;
  while (input != op.inputs[place].name) ++place;
  return place;
}

// The places of those of `tensors`, inputs or outputs by `kind`, that an attribute names.
std::vector<int> named(const std::vector<Tensor>& tensors, const std::string& kind, const std::string& names) {
  const std::string attribute = "attribute " + quoted(kind + "s");
  const std::vector<std::string> given = split(names, ',');
  std::vector<int> places;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const bool is_present = places.size() < given.size() && given[places.size()] == tensors[i].name;
    if (is_present) {
      places.push_back(int(i));
    } else if (!tensors[i].is_optional && !(kind == "output" && tensors[i].needs)) {
      throw Refusal(attribute + " must name " + kind + " " + quoted(tensors[i].name) + " in its place, got " +
                    quoted(names));
    }
  }
  if (places.size() == given.size()) return places;
  const std::string& other = given[places.size()];
  const bool is_twice = std::count(given.begin(), given.end(), other) > 1;
  throw Refusal(attribute + " names " + quoted(other) + (is_twice ? " twice" : "") + ", which is no " + kind +
                " or out of order, in " + quoted(names));
}

}  // namespace

std::string written(const Value& value) {
  if (const std::string* word = std::get_if<std::string>(&value)) return quoted(*word);
  if (const double* came = std::get_if<double>(&value)) return number(*came);
  return "another type";
}

const char* type_name(Type type) {
  static const char* const names[] = {"float32", "float16", "bfloat16", "float64", "int8",   "int16", "int32",  "int64",
                                      "uint8",   "uint16",  "uint32",   "uint64",  "bool",   "string"};
  return type == Type::kOther ? "a type that no op takes" : names[int(type)];
}

std::vector<int> named_inputs(const Op& op, const std::string& names) { return named(op.inputs, "input", names); }

std::vector<int> named_outputs(const Op& op, const std::string& names) { return named(op.outputs, "output", names); }

std::vector<std::string> placement_attributes(const Op& op) {
  std::vector<std::string> names;
  for (const Tensor& input : op.inputs) {
    if (input.stride) names.push_back(input.name + std::string(kWindowSuffix));
  }
  if (names.empty()) return names;
  for (size_t i = 2; i < op.sizes.size(); ++i) names.push_back(op.sizes[i].name);
  return names;
}

bool has_output(const Op& op, const Tensor& output, const std::vector<bool>& is_given) {
  return !output.needs || is_given[place_of(op, output.needs)];
}

int64_t token_elements(const Tensor& tensor, const Sizes& sizes) {
  int64_t elements = 1;
  for (size_t i = 2; i < tensor.axes.size(); ++i) elements *= tensor.axes[i].length(sizes);
  return elements;
}

void check_sizes(const Op& op, const Sizes& sizes) {
  if (op.rows && sizes[0] >= 0 && sizes[1] >= 0 && sizes[0] * sizes[1] > kMaxSize) {
    throw Refusal("B * L (tokens) must be at most " + std::to_string(kMaxSize) + ", got " +
                  std::to_string(sizes[0] * sizes[1]));
  }
  if (op.check) op.check(sizes);
}

Node::Node(const Op& op, Device device) : op_(&op), device_(device) {
  windows_.fill(-1);
  for (const Attribute& attribute : op.attributes) attributes_.push_back(attribute.fallback);
}

void Node::set(const std::string& name, const Value& value) {
  for (size_t i = 0; i < attributes_.size(); ++i) {
    const Attribute& attribute = op_->attributes[i];
    if (name != attribute.name) continue;
    const std::optional<double> taken = admitted_value(attribute, value);
    if (taken) return void(attributes_[i] = *taken);
    throw Refusal("attribute " + quoted(name) + " must be " + admitted(attribute) + ", got " + written(value));
  }
  if (!set_placement(name, value)) throw Refusal("there is no attribute " + quoted(name));
}

bool Node::set_placement(const std::string& name, const Value& value) {
  const auto whole = [&](const Range& range) {
    const double* came = std::get_if<double>(&value);
    if (came && double(range.low) <= *came && *came <= double(range.high) && *came == std::floor(*came)) {
      return int64_t(*came);
    }
    throw Refusal("attribute " + quoted(name) + " must be an integer of at least " + std::to_string(range.low) +
                  " and at most " + std::to_string(range.high) + ", got " + written(value));
  };
  const std::vector<std::string> known = placement_attributes(*op_);
  if (std::find(known.begin(), known.end(), name) == known.end()) return false;
  for (size_t i = 0; i < op_->inputs.size(); ++i) {
    if (op_->inputs[i].stride && name == op_->inputs[i].name + std::string(kWindowSuffix)) {
      return windows_[i] = whole({0, kMaxSize}), true;
    }
  }
  for (size_t i = 0; i < op_->sizes.size(); ++i) {
    if (name == op_->sizes[i].name) stated_[int(i)] = whole(op_->sizes[i].range(device_));
  }
  return true;
}

std::vector<std::pair<std::string, int64_t>> Node::placements() const {
  std::vector<std::pair<std::string, int64_t>> all;
  for (size_t i = 0; i < op_->inputs.size(); ++i) {
    if (is_window(i)) all.emplace_back(op_->inputs[i].name + std::string(kWindowSuffix), windows_[i]);
  }
  for (size_t i = 0; i < op_->sizes.size(); ++i) {
    if (stated_.values[i] >= 0) all.emplace_back(op_->sizes[i].name, stated_.values[i]);
  }
  return all;
}

int64_t Node::stated(int size) const {
  for (size_t i = 0; i < attributes_.size(); ++i) {
    if (op_->attributes[i].size == size) return int64_t(attributes_[i]);
  }
  return stated_[size];
}

char Node::kind(const Tensor& tensor) const {
  if (tensor.type != 'S') return tensor.type;
  for (size_t i = 0; i < attributes_.size(); ++i) {
    if (std::string_view(op_->attributes[i].name) == kWideAttribute) return attributes_[i] == 1 ? 'F' : 'T';
  }
  throw std::logic_error("an op with a type S has no attribute wide");
}

void Node::check_given(const std::vector<bool>& is_given) const {
  for (size_t i = 0; i < op_->inputs.size(); ++i) {
    const Tensor& input = op_->inputs[i];
    if (!is_given[i] && !input.is_optional) {
      throw Refusal("input " + quoted(input.name) + " is missing; it is not optional");
    }
    if (is_given[i] && input.needs && !is_given[place_of(*op_, input.needs)]) {
      throw Refusal("input " + quoted(input.name) + " must come with input " + quoted(input.needs) +
                    ", got it without; attribute 'inputs' names those that are present");
    }
  }
}

Type Node::check_types(const Given<Type>& types) const {
  const Tensor* first = nullptr;
  Type type = Type::kOther;
  for (size_t i = 0; i < types.size(); ++i) {
    if (!types[i]) continue;
    const Tensor& input = op_->inputs[i];
    const auto refuse = [&](const std::string& must) {
      throw Refusal("input " + quoted(input.name) + " must be " + must + ", got " + type_name(*types[i]));
    };
    if (!admits(kind(input), *types[i])) refuse(admitted(kind(input)));
    if (kind(input) != 'T') continue;
    if (!first) first = &input, type = *types[i];
    if (*types[i] != type) refuse(std::string(type_name(type)) + " as input " + quoted(first->name) + " is");
  }
  return type;
}

void Node::bind(size_t place, const Shape& shape, Sizes& sizes, Givers& givers) const {
  const Tensor& input = op_->inputs[place];
  const auto refuse = [&](const std::string& why) {
    throw Refusal("input " + quoted(input.name) + " must be " + expected(*op_, input, sizes, is_window(place)) +
                  ", got " + written(shape) + why);
  };
  if (shape.size() != (is_window(place) ? 3 : input.axes.size())) refuse("");
  for (size_t i = 0; i < (is_window(place) ? 2 : shape.size()); ++i) {
    if (shape[i] < 0) continue;
    const Axis axis = input.axes[i];
    const Size& size = op_->sizes[size_t(axis.size)];
    const Range& range = size.range(device_);
    const int64_t value = shape[i] - axis.offset;
    if (value < range.low || value > range.high) {
      refuse("; " + std::string(size.name) + " may be " + std::to_string(range.low) + " to " +
             std::to_string(range.high));
    }
    if (sizes[axis.size] < 0) {
      sizes[axis.size] = value;
      givers[size_t(axis.size)] = int(place);
    } else if (sizes[axis.size] != value) {
      const int giver = givers[size_t(axis.size)];
      refuse("; " + std::string(size.name) + " is " + std::to_string(sizes[axis.size]) + " by " +
             (giver < 0 ? "attribute " + quoted(size.name) : "input " + quoted(op_->inputs[size_t(giver)].name)));
    }
  }
}

void Node::check_window(size_t place, const Given<Shape>& shapes, Sizes& sizes) const {
  const Tensor& input = op_->inputs[place];
  const int64_t width = (*shapes[place])[2];
  bool is_known = true;
  for (size_t i = 2; i < input.axes.size(); ++i) {
    const int size = input.axes[i].size;
    bool is_told = sizes[size] >= 0;
    is_known = is_known && is_told;
    for (size_t other = 0; other < shapes.size() && !is_told; ++other) {
      is_told = shapes[other] && !is_window(other) && has_axis(op_->inputs[other], size);
    }
    const std::string name = op_->sizes[size_t(size)].name;
    if (!is_told) {
      throw Refusal("attribute " + quoted(name) + " must say what " + name + " is: input " + quoted(input.name) +
                    ", which has it, is a window of another tensor");
    }
  }
  const int64_t end = is_known ? windows_[place] + token_elements(input, sizes) : 0;
  if (width >= 0 && width < end) {
    throw Refusal("input " + quoted(input.name) + " must be " + expected(*op_, input, sizes, true) +
                  " with W of at least " + std::to_string(end) + ", where its window ends, got " +
                  written(*shapes[place]));
  }
  sizes.widths[place] = width;
}

Sizes Node::check_shapes(const Given<Shape>& shapes) const {
  Sizes sizes;
  for (size_t i = 0; i < op_->sizes.size(); ++i) sizes[int(i)] = stated(int(i));
  Givers givers;
  givers.fill(-1);
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (shapes[i]) bind(i, *shapes[i], sizes, givers);
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (shapes[i] && is_window(i)) check_window(i, shapes, sizes);
  }
  check_sizes(*op_, sizes);
  return sizes;
}

void Node::fill(void* params, Type type, const Sizes& sizes, const void* const* inputs, void* const* outputs) const {
  *static_cast<int32_t*>(params) = int32_t(type);
  for (size_t i = 0; i < op_->sizes.size(); ++i) {
    const Field& field = op_->sizes[i].field;
    if (field && sizes.values[i] >= 0) field.of<int32_t>(params) = int32_t(sizes.values[i]);
  }
  if (op_->rows) op_->rows.of<int32_t>(params) = int32_t(sizes[0] * sizes[1]);
  for (size_t i = 0; i < attributes_.size(); ++i) {
    const Attribute& attribute = op_->attributes[i];
    const Field& field = attribute.field;
    if (attribute.root_of >= 0 && attributes_[i] == 0) {
      field.of<float>(params) = float(1 / std::sqrt(double(sizes[attribute.root_of])));
    } else if (field.kind == Field::kFloat) {
      field.of<float>(params) = float(attributes_[i]);
    } else {
      field.of<int32_t>(params) = int32_t(attributes_[i]);
    }
  }
  for (size_t i = 0; i < op_->inputs.size(); ++i) {
    const Tensor& input = op_->inputs[i];
    const char* data = static_cast<const char*>(inputs[i]);
    if (data && is_window(i)) data += windows_[i] * element_bytes(kind(input), type);
    input.field.of<const void*>(params) = data;
    if (!input.stride || !data) continue;
    input.stride.of<int64_t>(params) = is_window(i) ? sizes.widths[i] : token_elements(input, sizes);
  }
  for (size_t i = 0; i < op_->outputs.size(); ++i) op_->outputs[i].field.of<void*>(params) = outputs[i];
  if (op_->check_params) op_->check_params(params, device_);
}

}  // namespace seqexport
