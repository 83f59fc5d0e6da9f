// One creator per op, of the interface that the TensorRT of these headers has.
#pragma once

#include <NvInferRuntime.h>

#include <string_view>
#include <vector>

namespace seqexport::tensorrt {

#if NV_TENSORRT_MAJOR > 8
using CreatorInterface = nvinfer1::IPluginCreatorInterface;
#else
using CreatorInterface = nvinfer1::IPluginCreator;
#endif

// Never destroyed: TensorRT may look at them as late as the process's end.
const std::vector<CreatorInterface*>& creators();

// Empty for a creator of another interface.
std::string_view name_of(CreatorInterface& creator);

}  // namespace seqexport::tensorrt
