// What an op is to ONNX Runtime: names and types of inputs and outputs, a kernel for each node, a shape rule.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "api.h"
#include "dtype.h"

namespace seqexport::ort {

enum class Provider { kCpu, kCuda };

// T: float32, float16 or bfloat16, the same throughout a node; F: float32; I: int32; S: F where the attribute `wide` is
// 1, else T.
enum class Kind { T, F, I, S };

struct Input {
  const char* name;
  Kind kind;
  bool optional = false;
};

// `optional`: a node may leave it out.
struct Output {
  Kind kind;
  bool optional = false;
};

using Shape = std::vector<int64_t>;

// A size in a message and in a check: the axis and the input it was first seen on.
struct Axis {
  const char* name;
  int64_t size;
};

std::string to_string(const Shape& shape);

// An input of a call. `data` is on the provider's device; null where an optional input is absent.
struct Tensor {
  const Input* input = nullptr;
  const void* data = nullptr;
  Shape shape;
};

class OpInfo;

// One run of one node.
class Call {
 public:
  Call(const OpInfo& op, const std::vector<int>& positions, OrtKernelContext* context);

  // The input at its place in OpInfo::inputs. Throws Refused where it is missing, or of a wrong type or rank.
  Tensor input(size_t index, size_t rank);
  // Throws Refused unless the tensor, where present, has exactly these axes.
  void require_shape(const Tensor& tensor, const std::vector<Axis>& axes) const;
  // Throws Refused unless each of these axes of the tensor is at least 1 and below 2^31.
  void require_sizes(const Tensor& tensor, const std::vector<Axis>& axes) const;
  // Throws Refused unless the axis, first seen on the input of that name, is in low..high.
  void require_size(const char* input, const Axis& axis, int64_t low, int64_t high) const;
  // What S is in this node; T until it is said.
  void set_wide(bool wide) { wide_ = wide; }
  // Throws Refused unless the node has `count` outputs.
  void require_outputs(size_t count) const;
  // Memory for output `index`, of the type of T, F or S; null where the node leaves out an optional one.
  void* output(size_t index, const Shape& shape);
  // SeqexportDataType of T; known once an input of kind T was read.
  int32_t dtype() const;
  // "<op>: <message>", as an invalid argument.
  [[noreturn]] void refuse(const std::string& message) const;

  std::string name() const;
  OrtKernelContext* context() const { return context_; }

 private:
  [[noreturn]] void refuse_type(const Input& input, ONNXTensorElementDataType came) const;
  void check_type(const Input& input, ONNXTensorElementDataType came);
  Kind settled(Kind kind) const;

  const OpInfo& op_;
  const std::vector<int>& positions_;
  OrtKernelContext* context_;
  bool wide_ = false;
  ONNXTensorElementDataType type_ = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
};

// The attributes of one node; a default stands where one is absent. Throws Refused where its type is another.
class Attributes {
 public:
  Attributes(const OpInfo& op, const OrtKernelInfo* info) : op_(op), info_(info) {}
  int64_t integer(const char* name, int64_t standard) const;
  float number(const char* name, float standard) const;
  std::string text(const char* name, const char* standard) const;
  [[noreturn]] void refuse(const std::string& message) const;

 private:
  bool absent(const char* name, const char* expected, OrtStatus* status) const;

  const OpInfo& op_;
  const OrtKernelInfo* info_;
};

// A node: its attributes, read once. Runs may overlap, so compute changes nothing of it.
class Kernel {
 public:
  virtual ~Kernel() = default;
  virtual void compute(Call& call) const = 0;
};

// Shape inference of one node; inputs that are absent or of unknown shape leave an output's shape unknown.
class ShapeRule {
 public:
  // An axis of an input, or 1.
  struct AxisOf {
    int input;
    size_t axis;
  };
  static constexpr AxisOf kOne{-1, 0};

  ShapeRule(const std::vector<int>& positions, OrtShapeInferContext* context)
      : positions_(positions), context_(context) {}
  // Output `output` is like input `input` in type and shape.
  void same(size_t output, size_t input) const;
  // The same, but that it is float32 where the node's attribute `wide` is 1.
  void same_if_not_wide(size_t output, size_t input) const;
  // Output `output` is of the type of input `typed` and has these axes of inputs.
  void of_axes(size_t output, size_t typed, const std::vector<AxisOf>& axes) const;

 private:
  OrtTensorTypeAndShapeInfo* input(size_t index) const;
  bool is_wide() const;
  void set(size_t output, ONNXTensorElementDataType type, const Shape& sizes, std::vector<const char*>& names) const;

  const std::vector<int>& positions_;
  OrtShapeInferContext* context_;
};

// An op as it is described to ONNX Runtime; never destroyed (see register.cpp).
class OpInfo {
 public:
  virtual ~OpInfo() = default;
  virtual const char* name() const = 0;
  virtual const std::vector<Input>& inputs() const = 0;
  virtual const std::vector<Output>& outputs() const = 0;
  virtual std::unique_ptr<Kernel> create(const Attributes& attributes, Provider provider) const = 0;
  virtual void infer(const ShapeRule& rule) const = 0;
};

const OpInfo& causal_conv1d_op();
const OpInfo& selective_scan_op();
const OpInfo& causal_attention_op();
const OpInfo& embedding_op();
const OpInfo& last_token_op();
const OpInfo& linear_op();
const OpInfo& rms_norm_op();
const OpInfo& rotary_embedding_op();

}  // namespace seqexport::ort
