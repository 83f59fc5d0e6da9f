// The interface of TensorRT 8. It has no way to refuse types or shapes: a plugin that was given wrong ones supports no
// format from then on, and does not initialize.
#include "harness.h"

#if NV_TENSORRT_MAJOR == 8

#include <stdexcept>

namespace {

struct Destroy {
  void operator()(nvinfer1::IPluginV2DynamicExt* plugin) const { plugin->destroy(); }
};

class PluginV2 final : public Plugin {
 public:
  explicit PluginV2(nvinfer1::IPluginV2* plugin) : self_(static_cast<nvinfer1::IPluginV2DynamicExt*>(plugin)) {}

  std::string identity() const override {
    return std::string(self_->getPluginNamespace()) + "::" + self_->getPluginType() + ", version " +
           self_->getPluginVersion();
  }
  int output_count() const override { return self_->getNbOutputs(); }
  std::optional<std::vector<DataType>> output_types(const std::vector<DataType>& inputs, int outputs) override {
    std::vector<DataType> types;
    for (int i = 0; i < outputs; ++i) {
      types.push_back(self_->getOutputDataType(i, inputs.data(), int32_t(inputs.size())));
    }
    return refused() ? std::nullopt : std::optional(types);
  }
  std::optional<std::vector<nvinfer1::DimsExprs>> output_shapes(const std::vector<nvinfer1::DimsExprs>& inputs,
                                                                int outputs, nvinfer1::IExprBuilder& builder) override {
    std::vector<nvinfer1::DimsExprs> shapes;
    for (int i = 0; i < outputs; ++i) {
      shapes.push_back(self_->getOutputDimensions(i, inputs.data(), int32_t(inputs.size()), builder));
    }
    return refused() ? std::nullopt : std::optional(shapes);
  }
  bool supports(int position, const std::vector<nvinfer1::DynamicPluginTensorDesc>& tensors, int inputs) override {
    std::vector<PluginTensorDesc> descs;
    for (const auto& tensor : tensors) descs.push_back(tensor.desc);
    return self_->supportsFormatCombination(position, descs.data(), inputs, int32_t(descs.size()) - inputs);
  }
  bool configure(const std::vector<nvinfer1::DynamicPluginTensorDesc>& tensors, int inputs) override {
    self_->configurePlugin(tensors.data(), inputs, tensors.data() + inputs, int32_t(tensors.size()) - inputs);
    return !refused();
  }
  size_t workspace() const override { return self_->getWorkspaceSize(nullptr, 0, nullptr, 0); }
  std::string state() const override {
    std::vector<char> bytes(self_->getSerializationSize());  // of that length, which a sanitizer guards
    self_->serialize(bytes.data());
    return {bytes.begin(), bytes.end()};
  }
  std::vector<std::unique_ptr<Plugin>> copies() const override {
    std::vector<std::unique_ptr<Plugin>> all;
    all.push_back(std::make_unique<PluginV2>(self_->clone()));
    return all;
  }
  bool take_shapes(const std::vector<PluginTensorDesc>& inputs, const std::vector<PluginTensorDesc>& outputs) override {
    std::vector<nvinfer1::DynamicPluginTensorDesc> tensors;
    for (const auto* descs : {&inputs, &outputs}) {
      for (const PluginTensorDesc& desc : *descs) tensors.push_back({desc, desc.dims, desc.dims});
    }
    return configure(tensors, int(inputs.size()));
  }
  bool enqueue(const std::vector<PluginTensorDesc>& inputs, const std::vector<PluginTensorDesc>& outputs,
               const void* const* input_data, void* const* output_data, void* workspace, cudaStream_t stream) override {
    return self_->enqueue(inputs.data(), outputs.data(), input_data, output_data, workspace, stream) == 0;
  }

 private:
  bool refused() const {
    const bool refused = self_->initialize() != 0;
    self_->terminate();
    return refused;
  }

  std::unique_ptr<nvinfer1::IPluginV2DynamicExt, Destroy> self_;
};

class CreatorV2 final : public Creator {
 public:
  explicit CreatorV2(nvinfer1::IPluginCreator* creator) : creator_(creator) {}
  std::string name() const override { return creator_->getPluginName(); }
  const nvinfer1::PluginFieldCollection* fields() const override { return creator_->getFieldNames(); }
  std::unique_ptr<Plugin> create(const nvinfer1::PluginFieldCollection* fields) const override {
    return made(creator_->createPlugin("node", fields));
  }
  std::unique_ptr<Plugin> restore(const std::string& state) const override {
    const std::vector<char> bytes(state.begin(), state.end());
    return made(creator_->deserializePlugin("node", bytes.data(), bytes.size()));
  }

 private:
  static std::unique_ptr<Plugin> made(nvinfer1::IPluginV2* plugin) {
    return plugin ? std::make_unique<PluginV2>(plugin) : nullptr;
  }

  nvinfer1::IPluginCreator* creator_;
};

}  // namespace

std::vector<std::unique_ptr<Creator>> wrapped(CreatorInterface* const* creators, int count) {
  std::vector<std::unique_ptr<Creator>> all;
  for (int i = 0; i < count; ++i) all.push_back(std::make_unique<CreatorV2>(creators[i]));
  return all;
}

#endif
