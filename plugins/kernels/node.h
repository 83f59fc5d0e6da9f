// An op as one node of a graph uses it: its attributes, and what its tensors must be. Checks what it is given against
// the op's description, throws Refusal with the reason, and fills the params. Knows no framework.
#pragma once

#include <optional>
#include <utility>
#include <variant>

#include "op.h"
#include "text.h"

namespace seqexport {

// An attribute that names the inputs that a node has, comma-separated, where optional ones are absent: TensorRT's
// parsers do not all take an input without a name.
constexpr char kInputsAttribute[] = "inputs";

enum class Type {
  kFloat32 = SEQEXPORT_FLOAT32,
  kFloat16 = SEQEXPORT_FLOAT16,
  kBfloat16 = SEQEXPORT_BFLOAT16,
  kFloat64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kBool,
  kString,
  kOther
};
const char* type_name(Type type);

// What a node says of an attribute; nothing where it is of a type that no attribute has.
using Value = std::variant<std::monostate, double, std::string>;
std::string written(const Value& value);

// Extents; -1 where one is not known yet.
using Shape = std::vector<int64_t>;

// One for each of Op::inputs; nothing for one that is absent.
template <typename T>
using Given = std::vector<std::optional<T>>;

// The inputs that the attribute kInputsAttribute names, as places in Op::inputs.
std::vector<int> named_inputs(const Op& op, const std::string& names);

class Node {
 public:
  Node(const Op& op, Device device);

  const Op& op() const { return *op_; }
  // Sets one of the op's attributes, which have their defaults before.
  void set(const std::string& name, const Value& value);
  // The value of one by its place, as the params hold it.
  double attribute(size_t index) const { return attributes_[index]; }
  void set(size_t index, double value) { attributes_[index] = value; }
  // 'T', 'F' or 'I': what a tensor is in this node.
  char kind(const Tensor& tensor) const;

  // That every input is there which must be; `is_given` says so of each place in Op::inputs.
  void check_given(const std::vector<bool>& is_given) const;
  // T, if every input's type is what the op takes.
  Type check_types(const Given<Type>& types) const;
  // The op's sizes, if the shapes go together; sizes of unknown extents are -1.
  Sizes check_shapes(const Given<Shape>& shapes) const;

  // Fills a params struct for contiguous tensors, and checks it. Pointers are by place in Op::inputs and Op::outputs,
  // those of absent tensors null.
  void fill(void* params, Type type, const Sizes& sizes, const void* const* inputs, void* const* outputs) const;

 private:
  using Givers = std::array<int, kMaxSizes>;  // the input that a size comes from
  void bind(size_t input, const Shape& shape, Sizes& sizes, Givers& givers) const;

  const Op* op_;
  Device device_;
  std::vector<double> attributes_;
};

// Whether an input that an output needs is there, or it needs none.
bool has_output(const Op& op, const Tensor& output, const std::vector<bool>& is_given);

// Elements of a token of a tensor [B,L,...].
int64_t token_elements(const Tensor& tensor, const Sizes& sizes);

// Throws Refusal for sizes that do not go together; any of them may be unknown.
void check_sizes(const Op& op, const Sizes& sizes);

// Memory for any op's params struct.
struct Params {
  alignas(std::max_align_t) char bytes[kMaxParamsBytes] = {};
};

}  // namespace seqexport
