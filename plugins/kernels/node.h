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
// The same of its outputs, where optional ones that nobody reads are absent.
constexpr char kOutputsAttribute[] = "outputs";

// An input whose tokens may lie apart is a window of the tensor [B,L,W] that is given for it where the attribute
// <input>_at says from which element of each token on. The sizes after B and L come from other inputs then, or from
// an attribute of the size's name, such as G.
constexpr char kWindowSuffix[] = "_at";
// The names of all attributes that this op's nodes may have for it; all are whole numbers.
std::vector<std::string> placement_attributes(const Op& op);

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

// The inputs that the attribute kInputsAttribute names, as places in Op::inputs, and the same of the outputs.
std::vector<int> named_inputs(const Op& op, const std::string& names);
std::vector<int> named_outputs(const Op& op, const std::string& names);

class Node {
 public:
  Node(const Op& op, Device device);

  const Op& op() const { return *op_; }
  // Sets one of the op's attributes, which have their defaults before, or one of placement_attributes().
  void set(const std::string& name, const Value& value);
  // The value of one by its place, as the params hold it.
  double attribute(size_t index) const { return attributes_[index]; }
  void set(size_t index, double value) { attributes_[index] = value; }
  // What was set of placement_attributes(), in their order.
  std::vector<std::pair<std::string, int64_t>> placements() const;
  bool is_window(size_t input) const { return windows_[input] >= 0; }
  // A size by its attribute; -1 without one.
  int64_t stated(int size) const;
  // 'T', 'F' or 'I': what a tensor is in this node.
  char kind(const Tensor& tensor) const;

  // That every input is there which must be; `is_given` says so of each place in Op::inputs.
  void check_given(const std::vector<bool>& is_given) const;
  // T, if every input's type is what the op takes.
  Type check_types(const Given<Type>& types) const;
  // The op's sizes, if the shapes go together; sizes of unknown extents are -1.
  Sizes check_shapes(const Given<Shape>& shapes) const;

  // Fills a params struct for tensors that are contiguous, and windows of such, and checks it. Pointers are by place in Op::inputs and Op::outputs,
  // those of absent tensors null.
  void fill(void* params, Type type, const Sizes& sizes, const void* const* inputs, void* const* outputs) const;

 private:
  using Givers = std::array<int, kMaxSizes>;  // the input that a size comes from; -1: its attribute
  void bind(size_t input, const Shape& shape, Sizes& sizes, Givers& givers) const;
  void check_window(size_t input, const Given<Shape>& shapes, Sizes& sizes) const;
  bool set_placement(const std::string& name, const Value& value);

  const Op* op_;
  Device device_;
  std::vector<double> attributes_;
  std::array<int64_t, kMaxInputs> windows_;  // by place in Op::inputs, the first element of each token; -1: no window
  Sizes stated_;
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
