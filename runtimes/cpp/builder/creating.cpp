#include "creating.h"

#include <dlfcn.h>

#include <string>

namespace seqexport {

std::unique_ptr<nvinfer1::IBuilder> create_builder(nvinfer1::ILogger& logger) {
  return std::unique_ptr<nvinfer1::IBuilder>(
      static_cast<nvinfer1::IBuilder*>(createInferBuilder_INTERNAL(&logger, interface_version())));
}

std::unique_ptr<nvinfer1::INetworkDefinition> create_network(nvinfer1::IBuilder& builder) {
#if NV_TENSORRT_MAJOR >= 11
  const nvinfer1::NetworkDefinitionCreationFlags flags = 0;  // strongly typed, always
#elif NV_TENSORRT_MAJOR >= 10
  const auto flags = 1U << static_cast<uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
#else
  const auto flags = 1U << static_cast<uint32_t>(nvinfer1::NetworkDefinitionCreationFlag::kEXPLICIT_BATCH);
#endif
  return std::unique_ptr<nvinfer1::INetworkDefinition>(builder.createNetworkV2(flags));
}

std::unique_ptr<nvonnxparser::IParser> create_parser(nvinfer1::INetworkDefinition& network, nvinfer1::ILogger& logger) {
  return std::unique_ptr<nvonnxparser::IParser>(nvonnxparser::createParser(network, logger));
}

void load_standard_plugins(nvinfer1::ILogger& logger) {
  const std::string name = "libnvinfer_plugin.so." + std::to_string(NV_TENSORRT_MAJOR);
  void* library = kRtx ? nullptr : dlopen(name.c_str(), RTLD_LAZY | RTLD_GLOBAL);
  if (!library) return;
  const auto init = reinterpret_cast<bool (*)(void*, const char*)>(dlsym(library, "initLibNvInferPlugins"));
  if (init) init(&logger, "");
}

}  // namespace seqexport
