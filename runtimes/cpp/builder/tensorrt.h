// What differs between TensorRT 8.5, 8.6, 10, 11 and TensorRT-RTX, in one place.
#pragma once

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <memory>
#include <string>

#define SEQEXPORT_TENSORRT_SINCE(major, minor) \
  (NV_TENSORRT_MAJOR > (major) || (NV_TENSORRT_MAJOR == (major) && NV_TENSORRT_MINOR >= (minor)))

namespace seqexport {

#ifdef SEQEXPORT_TENSORRT_RTX
constexpr bool kRtx = true;
#else
constexpr bool kRtx = false;
#endif

// Null where TensorRT has no device to build for; the logger knows why.
std::unique_ptr<nvinfer1::IBuilder> create_builder(nvinfer1::ILogger& logger);
std::unique_ptr<nvinfer1::INetworkDefinition> create_network(nvinfer1::IBuilder& builder);
std::unique_ptr<nvonnxparser::IParser> create_parser(nvinfer1::INetworkDefinition& network, nvinfer1::ILogger& logger);

// Of the library that runs, as 8.6.1.
std::string tensorrt_version();

// TensorRT 8.6.1, TensorRT-RTX 1.7.1.
std::string tensorrt_title();

// The same, fit for a file's name: trt8.6.1, rtx1.7.1.
std::string tensorrt_label();

// TensorRT's own plugins, for graphs that are not ours.
void load_standard_plugins(nvinfer1::ILogger& logger);

// The GPU that engines are built for. Where TensorRT-RTX builds without one, for all that it knows: any.
struct Gpu {
  std::string name;
  std::string compute_capability;  // as 8.7; empty for any
};

// Throws UserError where there is no GPU and TensorRT needs one.
Gpu current_gpu();

}  // namespace seqexport
