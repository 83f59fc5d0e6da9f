// One creator per op, of the interface that the TensorRT of these headers has.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace seqexport::tensorrt {

#if NV_TENSORRT_MAJOR > 8
using CreatorInterface = nvinfer1::IPluginCreatorInterface;
#else
using CreatorInterface = nvinfer1::IPluginCreator;
#endif

// Never destroyed: TensorRT may look at them as late as the process's end.
const std::vector<CreatorInterface*>& creators();

// What a registry tells creators apart by, as "namespace::name, version 1"; empty for one of an unknown interface.
std::string identity_of(CreatorInterface& creator);

}  // namespace seqexport::tensorrt
