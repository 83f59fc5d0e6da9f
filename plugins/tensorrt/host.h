// The TensorRT that this process runs, found without linking to it.
#pragma once

#include <NvInferRuntime.h>

namespace seqexport::tensorrt {

// Whether a TensorRT with the interfaces of our headers is loaded; if none is, one is looked for on the library path,
// since some programs load plugin libraries first, Polygraphy among them.
bool load_tensorrt();
// Null where no TensorRT is loaded whose registry is laid out as in our headers.
nvinfer1::IPluginRegistry* find_registry();
// Null where none was set, or where its TensorRT has other interfaces.
nvinfer1::ILogger* find_logger();

// Finds the logger of the plugin registry that loaded this library.
using FindLogger = nvinfer1::ILogger* (*)();
void set_logger_finder(FindLogger find);

}  // namespace seqexport::tensorrt
