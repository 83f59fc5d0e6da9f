// A node as TensorRT hands it over: its tensors stand at positions, those that it has alone, and its state is text in
// an engine. Needs no TensorRT header.
#pragma once

#include <string_view>

#include "node.h"

namespace seqexport::tensorrt {

// Says what T is, by its name: TensorRT 8 calls every tensor inside a network float32 until it has chosen, constants too.
constexpr char kTypeAttribute[] = "T";

struct AttributeField {
  std::string name;
  Value value;
};

class Node : public seqexport::Node {
 public:
  // `name` is the node's, for messages. Throws Refusal, as all of this does.
  Node(const Op& op, std::string name, const std::vector<AttributeField>& fields);

  // The node that serialise() wrote down.
  static Node restored(const Op& op, std::string name, std::string_view text);
  std::string serialise() const;

  int input_count() const { return int(inputs_.size()); }
  const Tensor& input(int position) const { return op().inputs[size_t(inputs_[size_t(position)])]; }
  int output_count() const { return int(outputs_.size()); }
  const Tensor& output(int position) const { return op().outputs[size_t(outputs_[size_t(position)])]; }
  // The tensor at a position among inputs, then outputs.
  const Tensor& tensor(int position) const;
  // T by the node's attribute, kOther without it.
  Type declared_type() const { return declared_type_; }

  // For any other number of outputs.
  void require_outputs(int came) const;
  // T, if every input's type is what the op takes.
  Type check_types(const std::vector<Type>& types) const;
  // The op's sizes, if the shapes go together; sizes of unknown extents are -1.
  Sizes check_shapes(const std::vector<Shape>& shapes) const;
  // Position and axis of the input that has the length of this axis of an output; nothing where an attribute has it.
  std::optional<std::pair<int, int>> source(const Axis& axis) const;

  // Queues the op on `stream`, a cudaStream_t; inputs and outputs by position.
  void launch(Type type, const Sizes& sizes, const void* const* inputs, void* const* outputs, void* workspace,
              void* stream) const;

  const char* name() const { return name_.c_str(); }

 private:
  void set_attribute(const AttributeField& field);
  void set_type(const Value& value);
  void settle_tensors();
  std::string input_names(const char* separator) const;
  // What is given by position, by place in Op::inputs.
  template <typename T>
  Given<T> by_place(const std::vector<T>& given) const;

  std::string name_;
  std::vector<int> inputs_;   // position -> place in Op::inputs
  std::vector<int> outputs_;  // position -> place in Op::outputs
  std::string listed_outputs_;  // the attribute kOutputsAttribute; empty: all that the inputs bring
  Type declared_type_ = Type::kOther;
};

}  // namespace seqexport::tensorrt
