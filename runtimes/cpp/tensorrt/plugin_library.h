// libseqexport_tensorrt.so: where it is, whether it may be used, and loading it. plugins/library.py has the same rules.
#pragma once

#include <filesystem>
#include <string>

#include "logger.h"

namespace seqexport {

struct PluginLibrary {
  std::filesystem::path file;
  std::string sha256;
  std::string version;  // of the seqexport that it was built from; known once it is loaded
};

// `given`, or if that is empty the library that `seqexport plugins build` made. One that a plugins.json beside it names
// is held to the sha256 there. Throws UserError: missing, damaged, or built for another TensorRT.
PluginLibrary find_plugin_library(const std::filesystem::path& given);

// Loads it for the rest of the process. Throws UserError.
void load(PluginLibrary& library, const Logger& logger);

// Finds and loads it, or gives the one that was loaded before: TensorRT takes each once. From any thread. Throws UserError.
PluginLibrary loaded_plugin_library(const std::filesystem::path& given, const Logger& logger);

}  // namespace seqexport
