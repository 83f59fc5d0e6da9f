// From an ONNX file to a serialised engine.
#pragma once

#include <NvInfer.h>

#include <memory>
#include <vector>

#include "logger.h"
#include "options.h"
#include "plugin_library.h"

namespace seqexport {

struct Engine {
  std::unique_ptr<nvinfer1::IHostMemory> plan;
  std::vector<Profile> profiles;
};

// `bundle` and `plugins` are null where there are none. Throws UserError with TensorRT's, or the plugin's, own reason.
Engine build_engine(const Options& options, const Bundle* bundle, PluginLibrary* plugins, Logger& logger);

}  // namespace seqexport
