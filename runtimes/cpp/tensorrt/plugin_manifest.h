// What plugins.json says of the library for TensorRT. plugins/library.py has the same rules.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace seqexport {

struct PluginEntry {
  std::string file;      // a name in the manifest's folder
  std::string sha256;    // of that file
  std::string version;   // of the seqexport that built it
  std::string tensorrt;  // that it was built for; empty where the manifest does not say
};

// None where the folder has no manifest, or that names no library for TensorRT of its own. Throws UserError: it is none.
std::optional<PluginEntry> plugin_entry(const std::filesystem::path& folder);

extern const char kBuildPlugins[];  // the command

}  // namespace seqexport
