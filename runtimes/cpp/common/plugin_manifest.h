// What plugins.json says of the compiled libraries beside it. plugins/library.py has the same rules.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace seqexport {

inline constexpr char kBuildPlugins[] = "seqexport plugins build";  // the command

// One of the libraries that it builds: its name in plugins.json, and the file's name but for a hash.
struct PluginKind {
  const char *name, *file;
};

struct PluginEntry {
  std::string file;                              // a name in the manifest's folder
  std::string sha256;                            // of that file
  std::string version;                           // of the seqexport that built it
  std::map<std::string, std::string> built_for;  // as "tensorrt"
};

// None where the folder has no manifest, or that names no such library. Throws UserError: it is no manifest.
std::optional<PluginEntry> plugin_entry(const PluginKind& kind, const std::filesystem::path& folder);

}  // namespace seqexport
