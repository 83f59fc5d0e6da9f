// Every op as an IPluginV2DynamicExt: TensorRT 8.5 and 8.6.
#include "creators.h"

#if NV_TENSORRT_MAJOR == 8

#include <cstring>
#include <memory>
#include <optional>

#include "tensorrt.h"

namespace seqexport::tensorrt {
namespace {

using nvinfer1::AsciiChar;
using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

constexpr int kFailure = 1;

// This interface has no way to say that shapes or types are wrong. A plugin that was given such reports it once, then
// supports no format, and so the build fails.
//
// TensorRT 8 asks for the output types before it has chosen those of a network's inner tensors, of which it then says
// float32; T is half precision where the node says so, or any input of type T, a state of the network's own, is.
class Plugin final : public nvinfer1::IPluginV2DynamicExt {
 public:
  explicit Plugin(Node node) : node_(std::move(node)), half_(node_.declared_type() == Type::kFloat16) {}

  const AsciiChar* getPluginType() const noexcept override { return node_.op().name; }
  const AsciiChar* getPluginVersion() const noexcept override { return kPluginVersion; }
  const AsciiChar* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
  void setPluginNamespace(const AsciiChar* name) noexcept override { namespace_ = name ? name : ""; }
  int32_t getNbOutputs() const noexcept override { return node_.output_count(); }
  void destroy() noexcept override { delete this; }
  int32_t initialize() noexcept override { return refused_ ? kFailure : 0; }
  void terminate() noexcept override {}

  Plugin* clone() const noexcept override {
    return guarded<Plugin*>(node_, nullptr, [&] { return new Plugin(*this); });
  }

  size_t getSerializationSize() const noexcept override { return text_.size(); }
  void serialize(void* buffer) const noexcept override { std::memcpy(buffer, text_.data(), text_.size()); }

  DataType getOutputDataType(int32_t index, const DataType* types, int32_t count) const noexcept override {
    std::vector<DataType> settled(types, types + count);
    const auto is_half = [&](int position) {
      return is_t(position) && types[position] == DataType::kHALF;
    };
    for (int i = 0; i < count && i < node_.input_count(); ++i) half_ = half_ || is_half(i);
    for (int i = 0; i < count && i < node_.input_count(); ++i) {
      if (half_ && is_t(i) && types[i] == DataType::kFLOAT) settled[size_t(i)] = DataType::kHALF;
    }
    const auto type = checked([&] { return check_types(node_, settled.data(), count); });
    return output_type(node_, index, type.value_or(Type::kFloat32));
  }

  DimsExprs getOutputDimensions(int32_t index, const DimsExprs* inputs, int32_t count,
                                nvinfer1::IExprBuilder& builder) noexcept override {
    const auto shape = checked([&] {
      check_shapes(node_, inputs, count);
      return output_shape(node_, index, inputs, builder);
    });
    return shape.value_or(count > 0 ? inputs[0] : DimsExprs{});
  }

  bool supportsFormatCombination(int32_t position, const PluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override {
    if (refused_ || inputs != node_.input_count() || outputs != node_.output_count()) return false;
    if (is_t(position) && (tensors[position].type == DataType::kHALF) != half_) return false;
    return supports(node_, position, tensors[position], tensors[0]);
  }

  void configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t count, const DynamicPluginTensorDesc*,
                       int32_t) noexcept override {
    checked([&] { return check_shapes(node_, inputs, count), true; });
  }

  size_t getWorkspaceSize(const PluginTensorDesc*, int32_t, const PluginTensorDesc*, int32_t) const noexcept override {
    return node_.op().workspace.most;
  }

  int32_t enqueue(const PluginTensorDesc* descs, const PluginTensorDesc*, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    return guarded(node_, kFailure, [&] {
      seqexport::tensorrt::enqueue(node_, descs, inputs, outputs, workspace, stream);
      return 0;
    });
  }

 private:
  bool is_t(int position) const { return node_.kind(node_.tensor(position)) == 'T'; }

  template <typename Work>
  auto checked(Work&& work) const noexcept -> std::optional<decltype(work())> {
    if (refused_) return std::nullopt;
    const auto result = guarded(node_, std::optional<decltype(work())>(), [&] { return std::optional(work()); });
    refused_ = !result;
    return result;
  }

  Node node_;
  std::string text_ = node_.serialise();
  std::string namespace_ = kNamespace;
  mutable bool refused_ = false, half_;
};

class Creator final : public nvinfer1::IPluginCreator {
 public:
  explicit Creator(const Op& op) : op_(op), fields_(op) {}

  const AsciiChar* getPluginName() const noexcept override { return op_.name; }
  const AsciiChar* getPluginVersion() const noexcept override { return kPluginVersion; }
  const AsciiChar* getPluginNamespace() const noexcept override { return namespace_.c_str(); }
  void setPluginNamespace(const AsciiChar* name) noexcept override { namespace_ = name ? name : ""; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return fields_.get(); }

  Plugin* createPlugin(const AsciiChar* name, const nvinfer1::PluginFieldCollection* fields) noexcept override {
    return guarded<Plugin*>(op_, name, nullptr, [&] { return made(Node(op_, name, fields_of(fields))); });
  }

  Plugin* deserializePlugin(const AsciiChar* name, const void* data, size_t length) noexcept override {
    return guarded<Plugin*>(
        op_, name, nullptr, [&] { return made(Node::restored(op_, name, {static_cast<const char*>(data), length})); });
  }

 private:
  Plugin* made(Node node) const {
    auto plugin = std::make_unique<Plugin>(std::move(node));
    plugin->setPluginNamespace(namespace_.c_str());
    return plugin.release();
  }

  const Op& op_;
  FieldNames fields_;
  std::string namespace_ = kNamespace;
};

}  // namespace

const std::vector<CreatorInterface*>& creators() {
  static const std::vector<CreatorInterface*>* const all = [] {
    auto* made = new std::vector<CreatorInterface*>();
    for (const Op& op : ops()) {
      if (op.launch) made->push_back(new Creator(op));
    }
    return made;
  }();
  return *all;
}

std::string identity_of(CreatorInterface& creator) { return identity(creator); }

}  // namespace seqexport::tensorrt

#endif
