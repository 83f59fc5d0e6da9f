// The descriptions of all ops as JSON, for those who speak no C++.
#include "op.h"
#include "text.h"

namespace seqexport {
namespace {

// No text here needs escapes.
std::string string(const std::string& text) { return "\"" + text + "\""; }

template <typename Items, typename Write>
std::string list(const Items& items, Write&& write) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : ", ") + write(item);
  return "[" + text + "]";
}

std::string pair(const char* name, const std::string& value) { return string(name) + ": " + value; }

template <typename... Pairs>
std::string object(const Pairs&... pairs) {
  std::string text;
  ((text += (text.empty() ? "" : ", ") + pairs), ...);
  return "{" + text + "}";
}

std::string name_or_null(const char* name) { return name ? string(name) : "null"; }

std::string range(const Range& range) {
  return "[" + std::to_string(range.low) + ", " + std::to_string(range.high) + "]";
}

// "K-1"; a length alone is a number.
std::string axis(const Op& op, const Axis& axis) {
  if (axis.size == Axis::kNone) return std::to_string(axis.offset);
  const std::string offset = axis.offset ? std::to_string(axis.offset) : "";
  return string(op.sizes[size_t(axis.size)].name + offset);
}

std::string tensor(const Op& op, const Tensor& tensor) {
  return object(pair("name", string(tensor.name)), pair("type", string({tensor.type})),
                pair("axes", list(tensor.axes, [&](const Axis& each) { return axis(op, each); })),
                pair("optional", tensor.is_optional ? "true" : "false"), pair("needs", name_or_null(tensor.needs)),
                pair("stride", name_or_null(tensor.stride.name)));
}

std::string size(const Size& size) {
  return object(pair("name", string(size.name)), pair("field", name_or_null(size.field.name)),
                pair("cpu", range(size.cpu)), pair("cuda", range(size.cuda)));
}

std::string attribute(const Op& op, const Attribute& attribute) {
  static const char* const kinds[] = {"int", "float", "choice"};
  return object(pair("name", string(attribute.name)), pair("kind", string(kinds[attribute.kind])),
                pair("default", number(attribute.fallback)), pair("low", number(attribute.low)),
                pair("high", number(attribute.high)), pair("choices", list(attribute.choices, string)),
                pair("root_of", attribute.root_of < 0 ? "null" : string(op.sizes[size_t(attribute.root_of)].name)));
}

// Every member of the params struct that the description knows.
std::vector<Field> fields(const Op& op) {
  std::vector<Field> all = {FieldOf<int32_t>{"dtype", 0}, op.rows, op.workspace.data, op.workspace.bytes};
  for (const Size& each : op.sizes) all.push_back(each.field);
  for (const auto* tensors : {&op.inputs, &op.outputs}) {
    for (const Tensor& each : *tensors) all.push_back(each.field), all.push_back(each.stride);
  }
  for (const Attribute& each : op.attributes) all.push_back(each.field);
  for (const Tuning& each : op.tuning) all.push_back(each.field);
  std::vector<Field> present;
  for (const Field& each : all) {
    if (each) present.push_back(each);
  }
  return present;
}

std::string field(const Field& field) {
  static const char* const kinds[] = {"int32", "int64", "size", "float", "pointer"};
  return object(pair("name", string(field.name)), pair("type", string(kinds[field.kind])),
                pair("offset", std::to_string(field.offset)));
}

std::string described(const Op& op) {
  const auto tensors = [&](const std::vector<Tensor>& all) {
    return list(all, [&](const Tensor& each) { return tensor(op, each); });
  };
  return object(pair("name", string(op.name)), pair("stem", string(op.stem)),
                pair("params_bytes", std::to_string(op.params_bytes)), pair("fields", list(fields(op), field)),
                pair("sizes", list(op.sizes, size)), pair("rows", name_or_null(op.rows.name)),
                pair("inputs", tensors(op.inputs)), pair("outputs", tensors(op.outputs)),
                pair("attributes", list(op.attributes, [&](const Attribute& each) { return attribute(op, each); })),
                pair("tuning", list(op.tuning, [](const Tuning& each) { return string(each.field.name); })),
                pair("workspace", std::to_string(op.workspace.most)));
}

}  // namespace

const char* ops_description() {
  static const std::string& text = *new std::string(list(ops(), described));
  return text.c_str();
}

}  // namespace seqexport
