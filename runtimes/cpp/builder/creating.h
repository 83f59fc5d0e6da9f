// TensorRT's objects that a build begins with, whatever its version.
#pragma once

#include <NvInfer.h>
#include <NvOnnxParser.h>

#include <memory>

#include "tensorrt.h"

namespace seqexport {

// Null where TensorRT has no device to build for; the logger knows why.
std::unique_ptr<nvinfer1::IBuilder> create_builder(nvinfer1::ILogger& logger);
std::unique_ptr<nvinfer1::INetworkDefinition> create_network(nvinfer1::IBuilder& builder);
std::unique_ptr<nvonnxparser::IParser> create_parser(nvinfer1::INetworkDefinition& network, nvinfer1::ILogger& logger);

// TensorRT's own plugins, for graphs that are not ours.
void load_standard_plugins(nvinfer1::ILogger& logger);

}  // namespace seqexport
