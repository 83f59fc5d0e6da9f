// An op as one node of a graph uses it: which of its inputs are there, and its attributes. Checks what it is given, and
// throws Refusal with the reason. Needs no TensorRT header.
#pragma once

#include <string_view>
#include <variant>

#include "op.h"

namespace seqexport::tensorrt {

// Names the inputs that a node has, comma-separated, where optional ones are absent: TensorRT's parsers do not all
// take an input without a name.
constexpr char kInputsAttribute[] = "inputs";

// Says what T is, by its name: TensorRT 8 calls every tensor inside a network float32 until it has chosen, constants too.
constexpr char kTypeAttribute[] = "T";

struct Field {
  std::string name;
  std::variant<double, std::string> value;
};

// Extents; -1 where one is not known yet.
using Shape = std::vector<int64_t>;

class Node {
 public:
  // `name` is the node's, for messages.
  Node(const Op& op, std::string name, const std::vector<Field>& fields);

  // The node that serialise() wrote down.
  static Node restored(const Op& op, std::string name, std::string_view text);
  std::string serialise() const;

  const Op& op() const { return *op_; }
  int input_count() const { return int(inputs_.size()); }
  const Tensor& input(int position) const { return op_->inputs[size_t(inputs_[size_t(position)])]; }
  int output_count() const { return int(outputs_.size()); }
  const Tensor& output(int position) const { return op_->outputs[size_t(outputs_[size_t(position)])]; }
  // The tensor at a position among inputs, then outputs.
  const Tensor& tensor(int position) const;
  // T by the node's attribute, kOther without it.
  Type declared_type() const { return declared_type_; }
  // 'T', 'F' or 'I': what a tensor is in this node.
  char kind(const Tensor& tensor) const;

  // Throws Refusal for any other number of outputs.
  void require_outputs(int came) const;
  // T, if every input's type is what the op takes.
  Type check_types(const std::vector<Type>& types) const;
  // The op's sizes, if the shapes go together; sizes of unknown extents are -1.
  Sizes check_shapes(const std::vector<Shape>& shapes) const;
  // Position and axis of the input that has the length of this axis of an output.
  std::pair<int, int> source(const Axis& axis) const;

  // Queues the op on `stream`; inputs and outputs by position.
  cudaError_t launch(Type type, const Sizes& sizes, const void* const* inputs, void* const* outputs, void* workspace,
                     cudaStream_t stream) const;

  const char* name() const { return name_.c_str(); }

 private:
  void set_inputs(const std::string& names);
  void set_attribute(const Field& field);
  bool has_input(const char* name) const;
  void set_type(const Field& field);
  void settle_tensors();
  void require_count(size_t came) const;
  void bind(int position, const Shape& shape, Sizes& sizes, std::array<int, kMaxSizes>& givers) const;

  const Op* op_;
  std::string name_;
  std::vector<int> inputs_;   // position -> index in op_->inputs
  std::vector<int> outputs_;  // position -> index in op_->outputs
  std::array<double, kMaxAttributes> attributes_ = {};
  Type declared_type_ = Type::kOther;
};

const char* type_name(Type type);

}  // namespace seqexport::tensorrt
