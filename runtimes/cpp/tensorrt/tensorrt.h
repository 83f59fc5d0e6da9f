// What differs between TensorRT 8.5, 8.6, 10, 11 and TensorRT-RTX for builder and runtime, in one place.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <string>

#include "gpu.h"

#define SEQEXPORT_TENSORRT_SINCE(major, minor) \
  (NV_TENSORRT_MAJOR > (major) || (NV_TENSORRT_MAJOR == (major) && NV_TENSORRT_MINOR >= (minor)))

namespace seqexport {

#ifdef SEQEXPORT_TENSORRT_RTX
constexpr bool kRtx = true;
#else
constexpr bool kRtx = false;
#endif

// Of the headers, as 8.6.1.
#define SEQEXPORT_TEXT_(number) #number
#define SEQEXPORT_TEXT(number) SEQEXPORT_TEXT_(number)
constexpr char kCompiledFor[] = SEQEXPORT_TEXT(NV_TENSORRT_MAJOR) "." SEQEXPORT_TEXT(NV_TENSORRT_MINOR) "." SEQEXPORT_TEXT(
    NV_TENSORRT_PATCH);
#undef SEQEXPORT_TEXT
#undef SEQEXPORT_TEXT_

// What TensorRT is told of the headers that it is called with.
int32_t interface_version();

// Null where TensorRT does not start; the logger knows why. It also runs what a version-compatible plan carries.
std::unique_ptr<nvinfer1::IRuntime> create_runtime(nvinfer1::ILogger& logger);

// Device memory that an execution context works in, whatever its profile.
size_t scratch_bytes(const nvinfer1::ICudaEngine& engine);

// An execution context that works in the `bytes` of device memory at `scratch`. Null if it cannot be made.
std::unique_ptr<nvinfer1::IExecutionContext> create_context(nvinfer1::ICudaEngine& engine, void* scratch, size_t bytes);

// Of the library that runs, as 8.6.1.
std::string tensorrt_version();

// TensorRT 8.6.1, TensorRT-RTX 1.7.1.
std::string tensorrt_title();

// The same, fit for a file's name: trt8.6.1, rtx1.7.1.
std::string tensorrt_label();

// As records have it: 8.6.1, RTX 1.7.1.
std::string tensorrt_release();

// The one that this thread works on. Throws UserError where there is no GPU and TensorRT needs one.
Gpu current_gpu();

// "NVIDIA H100 80GB HBM3" and TensorRT 8.6.0: nvidia-h100-80gb-hbm3-trt8.6.0.
std::string engine_name(const Gpu& gpu);

}  // namespace seqexport
