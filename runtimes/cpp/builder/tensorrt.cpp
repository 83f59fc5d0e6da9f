#include "tensorrt.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include "error.h"

namespace seqexport {

std::unique_ptr<nvinfer1::IBuilder> create_builder(nvinfer1::ILogger& logger) {
  // TensorRT-RTX counts its versions by itself, and has no headers of its own here.
  const int32_t version = kRtx ? getInferLibVersion() : NV_TENSORRT_VERSION;
  return std::unique_ptr<nvinfer1::IBuilder>(
      static_cast<nvinfer1::IBuilder*>(createInferBuilder_INTERNAL(&logger, version)));
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

std::string tensorrt_version() {
  const int version = getInferLibVersion();  // 8601, 101300
  const int major = version >= 10000 ? version / 10000 : version / 1000;
  const int minor = version >= 10000 ? version / 100 % 100 : version / 100 % 10, patch = version % 100;
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

std::string tensorrt_title() { return (kRtx ? "TensorRT-RTX " : "TensorRT ") + tensorrt_version(); }

std::string tensorrt_label() { return (kRtx ? "rtx" : "trt") + tensorrt_version(); }

void load_standard_plugins(nvinfer1::ILogger& logger) {
  const std::string name = "libnvinfer_plugin.so." + std::to_string(NV_TENSORRT_MAJOR);
  void* library = kRtx ? nullptr : dlopen(name.c_str(), RTLD_LAZY | RTLD_GLOBAL);
  if (!library) return;
  const auto init = reinterpret_cast<bool (*)(void*, const char*)>(dlsym(library, "initLibNvInferPlugins"));
  if (init) init(&logger, "");
}

Gpu current_gpu() {
  int device = 0;
  cudaDeviceProp properties;
  cudaError_t status = cudaGetDevice(&device);
  if (status == cudaSuccess) status = cudaGetDeviceProperties(&properties, device);
  if (status == cudaSuccess)
    return {properties.name, std::to_string(properties.major) + "." + std::to_string(properties.minor)};
  if (kRtx) return {"any", ""};
  throw UserError(
      std::string("no CUDA device (") + cudaGetErrorString(status) +
      "): TensorRT builds on the GPU that it builds for; check nvidia-smi, on Jetson the user's video group");
}

}  // namespace seqexport
