#include "tensorrt.h"

#include <cuda_runtime_api.h>

#include <cctype>

#include "error.h"

namespace seqexport {

// Patches have one interface, so that a library may be of another than the headers. TensorRT-RTX counts its versions by
// itself, and has no headers of its own here.
int32_t interface_version() {
  const int32_t own = getInferLibVersion();  // 8601, 101300
  return kRtx || own / 100 == NV_TENSORRT_VERSION / 100 ? own : NV_TENSORRT_VERSION;
}

std::unique_ptr<nvinfer1::IRuntime> create_runtime(nvinfer1::ILogger& logger) {
  std::unique_ptr<nvinfer1::IRuntime> runtime(
      static_cast<nvinfer1::IRuntime*>(createInferRuntime_INTERNAL(&logger, interface_version())));
#if SEQEXPORT_TENSORRT_SINCE(8, 6)
  if (runtime) runtime->setEngineHostCodeAllowed(true);
#endif
  return runtime;
}

size_t scratch_bytes(const nvinfer1::ICudaEngine& engine) {
#if SEQEXPORT_TENSORRT_SINCE(10, 1)
  return size_t(engine.getDeviceMemorySizeV2());
#else
  return engine.getDeviceMemorySize();
#endif
}

std::unique_ptr<nvinfer1::IExecutionContext> create_context(nvinfer1::ICudaEngine& engine, void* scratch,
                                                            [[maybe_unused]] size_t bytes) {
#if SEQEXPORT_TENSORRT_SINCE(10, 0)
  std::unique_ptr<nvinfer1::IExecutionContext> context(
      engine.createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED));
#else
  std::unique_ptr<nvinfer1::IExecutionContext> context(engine.createExecutionContextWithoutDeviceMemory());
#endif
#if SEQEXPORT_TENSORRT_SINCE(10, 1)
  if (context) context->setDeviceMemoryV2(scratch, int64_t(bytes));
#else
  if (context) context->setDeviceMemory(scratch);
#endif
  return context;
}

std::string tensorrt_version() {
  const int version = getInferLibVersion();  // 8601, 101300
  const int major = version >= 10000 ? version / 10000 : version / 1000;
  const int minor = version >= 10000 ? version / 100 % 100 : version / 100 % 10, patch = version % 100;
  return std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(patch);
}

std::string tensorrt_title() { return (kRtx ? "TensorRT-RTX " : "TensorRT ") + tensorrt_version(); }

std::string tensorrt_label() { return (kRtx ? "rtx" : "trt") + tensorrt_version(); }

std::string tensorrt_release() { return (kRtx ? "RTX " : "") + tensorrt_version(); }

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
      "): TensorRT builds and runs on the GPU that an engine is for; check nvidia-smi, on Jetson the user's video group");
}

std::string engine_name(const Gpu& gpu) {
  std::string slug;
  for (unsigned char c : gpu.name) {
    if (std::isalnum(c))
      slug += char(std::tolower(c));
    else if (!slug.empty() && slug.back() != '-')
      slug += '-';
  }
  while (!slug.empty() && slug.back() == '-') slug.pop_back();
  return slug + "-" + tensorrt_label();
}

}  // namespace seqexport
