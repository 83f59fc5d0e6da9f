// The interface of TensorRT 10 and later.
#include "harness.h"

#if NV_TENSORRT_MAJOR > 8

namespace {

class PluginV3 final : public Plugin {
 public:
  explicit PluginV3(nvinfer1::IPluginV3* plugin) : self_(plugin) {
    using Capability = nvinfer1::PluginCapabilityType;
    core_ = static_cast<nvinfer1::IPluginV3OneCore*>(plugin->getCapabilityInterface(Capability::kCORE));
    build_ = static_cast<nvinfer1::v_1_0::IPluginV3OneBuild*>(plugin->getCapabilityInterface(Capability::kBUILD));
    runtime_ = static_cast<nvinfer1::IPluginV3OneRuntime*>(plugin->getCapabilityInterface(Capability::kRUNTIME));
  }

  std::string identity() const override {
    return std::string(core_->getPluginNamespace()) + "::" + core_->getPluginName() + ", version " +
           core_->getPluginVersion();
  }
  int output_count() const override { return build_->getNbOutputs(); }
  std::optional<std::vector<DataType>> output_types(const std::vector<DataType>& inputs, int outputs) override {
    std::vector<DataType> types(static_cast<size_t>(outputs));
    const int status = build_->getOutputDataTypes(types.data(), outputs, inputs.data(), int32_t(inputs.size()));
    return status == 0 ? std::optional(types) : std::nullopt;
  }
  std::optional<std::vector<nvinfer1::DimsExprs>> output_shapes(const std::vector<nvinfer1::DimsExprs>& inputs,
                                                                int outputs, nvinfer1::IExprBuilder& builder) override {
    std::vector<nvinfer1::DimsExprs> shapes(static_cast<size_t>(outputs));
    const int count = int(inputs.size());
    const int status = build_->getOutputShapes(inputs.data(), count, nullptr, 0, shapes.data(), outputs, builder);
    return status == 0 ? std::optional(shapes) : std::nullopt;
  }
  bool supports(int position, const std::vector<nvinfer1::DynamicPluginTensorDesc>& tensors, int inputs) override {
    return build_->supportsFormatCombination(position, tensors.data(), inputs, int32_t(tensors.size()) - inputs);
  }
  bool configure(const std::vector<nvinfer1::DynamicPluginTensorDesc>& tensors, int inputs) override {
    return build_->configurePlugin(tensors.data(), inputs, tensors.data() + inputs, int32_t(tensors.size()) - inputs) ==
           0;
  }
  size_t workspace() const override { return build_->getWorkspaceSize(nullptr, 0, nullptr, 0); }
  std::string state() const override {
    const nvinfer1::PluginFieldCollection* fields = runtime_->getFieldsToSerialize();
    if (fields->nbFields != 1) return "";
    return {static_cast<const char*>(fields->fields[0].data), size_t(fields->fields[0].length)};
  }
  std::vector<std::unique_ptr<Plugin>> copies() const override {
    std::vector<std::unique_ptr<Plugin>> all;
    all.push_back(std::make_unique<PluginV3>(self_->clone()));
    all.push_back(std::make_unique<PluginV3>(runtime_->attachToContext(nullptr)));
    return all;
  }
  bool take_shapes(const std::vector<PluginTensorDesc>& inputs, const std::vector<PluginTensorDesc>& outputs) override {
    return runtime_->onShapeChange(inputs.data(), int(inputs.size()), outputs.data(), int(outputs.size())) == 0;
  }
  bool enqueue(const std::vector<PluginTensorDesc>& inputs, const std::vector<PluginTensorDesc>& outputs,
               const void* const* input_data, void* const* output_data, void* workspace, cudaStream_t stream) override {
    return runtime_->enqueue(inputs.data(), outputs.data(), input_data, output_data, workspace, stream) == 0;
  }

 private:
  std::unique_ptr<nvinfer1::IPluginV3> self_;
  nvinfer1::IPluginV3OneCore* core_;
  nvinfer1::v_1_0::IPluginV3OneBuild* build_;
  nvinfer1::IPluginV3OneRuntime* runtime_;
};

class CreatorV3 final : public Creator {
 public:
  explicit CreatorV3(nvinfer1::IPluginCreatorV3One* creator) : creator_(creator) {}
  std::string name() const override { return creator_->getPluginName(); }
  const nvinfer1::PluginFieldCollection* fields() const override { return creator_->getFieldNames(); }
  std::unique_ptr<Plugin> create(const nvinfer1::PluginFieldCollection* fields) const override {
    return made(fields, nvinfer1::TensorRTPhase::kBUILD);
  }
  std::unique_ptr<Plugin> restore(const std::string& state) const override {
    const std::vector<char> bytes(state.begin(), state.end());  // of that length, which a sanitizer guards
    const nvinfer1::PluginField field("state", bytes.data(), nvinfer1::PluginFieldType::kCHAR, int32_t(bytes.size()));
    const nvinfer1::PluginFieldCollection fields = {1, &field};
    return made(&fields, nvinfer1::TensorRTPhase::kRUNTIME);
  }

 private:
  std::unique_ptr<Plugin> made(const nvinfer1::PluginFieldCollection* fields, nvinfer1::TensorRTPhase phase) const {
    nvinfer1::IPluginV3* plugin = creator_->createPlugin("node", fields, phase);
    return plugin ? std::make_unique<PluginV3>(plugin) : nullptr;
  }

  nvinfer1::IPluginCreatorV3One* creator_;
};

}  // namespace

std::vector<std::unique_ptr<Creator>> wrapped(CreatorInterface* const* creators, int count) {
  std::vector<std::unique_ptr<Creator>> all;
  for (int i = 0; i < count; ++i) {
    all.push_back(std::make_unique<CreatorV3>(static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i])));
  }
  return all;
}

#endif
