// libseqexport_tensorrt.so: found, checked and loaded.
#pragma once

#include <filesystem>

#include "logger.h"
#include "plugin_library.h"

namespace seqexport {

// `given`, or if that is empty the library that `seqexport plugins build` made. Throws UserError: missing, damaged, of
// another seqexport, or built for another TensorRT.
PluginLibrary find_plugins(const std::filesystem::path& given);

// Loads it for the rest of the process, and asks it for its version. Throws UserError.
void load(PluginLibrary& library, const Logger& logger);

// Finds and loads it, or gives the one that was loaded before: TensorRT takes each once. From any thread. Throws UserError.
PluginLibrary loaded_plugins(const std::filesystem::path& given, const Logger& logger);

}  // namespace seqexport
