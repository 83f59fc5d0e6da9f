// What the plugin interfaces of TensorRT 8 and of TensorRT 10 and later have in common, in terms of Node.
#pragma once

#include <NvInferRuntime.h>

#include <exception>

#include "plugin_node.h"

namespace seqexport::tensorrt {

constexpr char kPluginVersion[] = "1";
constexpr char kNamespace[] = "";  // before 10.10 the ONNX parser looks in no other

// The attributes that the parser is to hand over with a node.
class FieldNames {
 public:
  explicit FieldNames(const Op& op);
  FieldNames(const FieldNames&) = delete;
  FieldNames& operator=(const FieldNames&) = delete;
  const nvinfer1::PluginFieldCollection* get() const { return &collection_; }

 private:
  const std::vector<std::string> placed_;  // names that fields_ points to
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_;
};

std::vector<AttributeField> fields_of(const nvinfer1::PluginFieldCollection* collection);

// T, if the inputs' types are what the op takes.
Type check_types(const Node& node, const nvinfer1::DataType* types, int count);
nvinfer1::DataType output_type(const Node& node, int index, Type type);

// Throw Refusal unless the inputs' shapes go together.
void check_shapes(const Node& node, const nvinfer1::DimsExprs* inputs, int count);
Sizes check_shapes(const Node& node, const nvinfer1::PluginTensorDesc* inputs, int count);
void check_shapes(const Node& node, const nvinfer1::DynamicPluginTensorDesc* inputs, int count);
nvinfer1::DimsExprs output_shape(const Node& node, int index, const nvinfer1::DimsExprs* inputs,
                                 nvinfer1::IExprBuilder& builder);

// Whether a tensor is in the one layout that the kernels read and of the type that its place has. `position` counts
// inputs, then outputs; `first` is input 0, which is of type T in every op.
bool supports(const Node& node, int position, const nvinfer1::PluginTensorDesc& tensor,
              const nvinfer1::PluginTensorDesc& first);

// Of any creator that has them.
template <typename Creator>
std::string identity(const Creator& creator) {
  const auto text = [](const char* name) { return std::string(name ? name : ""); };
  return text(creator.getPluginNamespace()) + "::" + text(creator.getPluginName()) + ", version " +
         text(creator.getPluginVersion());
}

// Queues the op on `stream` for the extents that the descriptions have; throws where it cannot.
void enqueue(const Node& node, const nvinfer1::PluginTensorDesc* descs, const void* const* inputs,
             void* const* outputs, void* workspace, cudaStream_t stream);

// Tells the user, through TensorRT's logger, else its error recorder, else stderr.
void report(const std::string& message) noexcept;
// The same about a node.
void report(const Op& op, const char* node, const char* message) noexcept;

// What `work` returns; where it throws, the reason is reported and `failure` returned.
template <typename Result, typename Work>
Result guarded(const Op& op, const char* node, Result failure, Work&& work) noexcept {
  try {
    return work();
  } catch (const std::exception& error) {
    report(op, node, error.what());
    return failure;
  }
}
template <typename Result, typename Work>
Result guarded(const Node& node, Result failure, Work&& work) noexcept {
  return guarded(node.op(), node.name(), failure, work);
}

}  // namespace seqexport::tensorrt
