// Every op as an IPluginV3: TensorRT 10 and later, TensorRT-RTX.
#include "creators.h"

#if NV_TENSORRT_MAJOR > 8

#include "tensorrt.h"

namespace seqexport::tensorrt {
namespace {

using nvinfer1::AsciiChar;
using nvinfer1::DataType;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginTensorDesc;

constexpr int kFailure = -1;
constexpr char kStateField[] = "state";

class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::v_1_0::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit Plugin(Node node) : node_(std::move(node)) {}
  Plugin(const Plugin&) = delete;
  Plugin& operator=(const Plugin&) = delete;

  nvinfer1::IPluginCapability* getCapabilityInterface(PluginCapabilityType type) noexcept override {
    switch (type) {
      case PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case PluginCapabilityType::kBUILD: return static_cast<nvinfer1::v_1_0::IPluginV3OneBuild*>(this);
      case PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  Plugin* clone() noexcept override {
    return guarded<Plugin*>(node_, nullptr, [&] { return new Plugin(node_); });
  }

  const AsciiChar* getPluginName() const noexcept override { return node_.op().name; }
  const AsciiChar* getPluginVersion() const noexcept override { return kPluginVersion; }
  const AsciiChar* getPluginNamespace() const noexcept override { return kNamespace; }

  int32_t getNbOutputs() const noexcept override { return node_.output_count(); }

  int32_t getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                             int32_t count) const noexcept override {
    return guarded(node_, kFailure, [&] {
      const Type type = check_types(node_, inputs, count);
      node_.require_outputs(output_count);
      for (int i = 0; i < output_count; ++i) outputs[i] = output_type(node_, i, type);
      return 0;
    });
  }

  int32_t getOutputShapes(const DimsExprs* inputs, int32_t count, const DimsExprs*, int32_t, DimsExprs* outputs,
                          int32_t output_count, nvinfer1::IExprBuilder& builder) noexcept override {
    return guarded(node_, kFailure, [&] {
      check_shapes(node_, inputs, count);
      node_.require_outputs(output_count);
      for (int i = 0; i < output_count; ++i) outputs[i] = output_shape(node_, i, inputs, builder);
      return 0;
    });
  }

  bool supportsFormatCombination(int32_t position, const DynamicPluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override {
    if (inputs != node_.input_count() || outputs != node_.output_count()) return false;
    return supports(node_, position, tensors[position].desc, tensors[0].desc);
  }

  int32_t configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t count, const DynamicPluginTensorDesc*,
                          int32_t) noexcept override {
    return guarded(node_, kFailure, [&] { return check_shapes(node_, inputs, count), 0; });
  }

  size_t getWorkspaceSize(const DynamicPluginTensorDesc*, int32_t, const DynamicPluginTensorDesc*,
                          int32_t) const noexcept override {
    return node_.op().workspace.most;
  }

  const char* getTimingCacheID() noexcept override { return text_.c_str(); }

  int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t count, const PluginTensorDesc*,
                        int32_t) noexcept override {
    return guarded(node_, kFailure, [&] { return check_shapes(node_, inputs, count), 0; });
  }

  int32_t enqueue(const PluginTensorDesc* descs, const PluginTensorDesc*, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
    return guarded(node_, kFailure, [&] {
      seqexport::tensorrt::enqueue(node_, descs, inputs, outputs, workspace, stream);
      return 0;
    });
  }

  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }

  const PluginFieldCollection* getFieldsToSerialize() noexcept override { return &state_; }

 private:
  const Node node_;
  const std::string text_ = node_.serialise();
  const PluginField field_{kStateField, text_.data(), nvinfer1::PluginFieldType::kCHAR, int32_t(text_.size())};
  const PluginFieldCollection state_{1, &field_};
};

class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  explicit Creator(const Op& op) : op_(op), fields_(op) {}

  const AsciiChar* getPluginName() const noexcept override { return op_.name; }
  const AsciiChar* getPluginVersion() const noexcept override { return kPluginVersion; }
  const AsciiChar* getPluginNamespace() const noexcept override { return kNamespace; }
  const PluginFieldCollection* getFieldNames() noexcept override { return fields_.get(); }

  nvinfer1::IPluginV3* createPlugin(const AsciiChar* name, const PluginFieldCollection* collection,
                                    nvinfer1::TensorRTPhase phase) noexcept override {
    return guarded<Plugin*>(op_, name, nullptr, [&] {
      const std::vector<AttributeField> fields = fields_of(collection);
      if (phase == nvinfer1::TensorRTPhase::kBUILD) return new Plugin(Node(op_, name, fields));
      const std::string* state = fields.size() == 1 ? std::get_if<std::string>(&fields[0].value) : nullptr;
      if (!state || fields[0].name != kStateField) throw Refusal("the engine holds no state of it; rebuild the engine");
      return new Plugin(Node::restored(op_, name, *state));
    });
  }

 private:
  const Op& op_;
  FieldNames fields_;
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

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"  // others' creators may be of the older interface
std::string identity_of(CreatorInterface& creator) {
  const std::string_view kind = creator.getInterfaceInfo().kind;
  if (kind == "PLUGIN CREATOR_V3ONE") return identity(static_cast<nvinfer1::IPluginCreatorV3One&>(creator));
  if (kind == "PLUGIN CREATOR_V1") return identity(static_cast<nvinfer1::v_1_0::IPluginCreator&>(creator));
  return "";
}
#pragma GCC diagnostic pop

}  // namespace seqexport::tensorrt

#endif
