// The compiled libraries of our ops: where they are, and whether they may be used. plugins/library.py has the same rules.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "plugin_manifest.h"

namespace seqexport {

struct PluginLibrary {
  std::filesystem::path file;
  std::string sha256;
  std::string version;                           // of the seqexport that built it; empty where no plugins.json says it
  std::map<std::string, std::string> built_for;  // as "tensorrt"; empty likewise
};

// $SEQEXPORT_PLUGINS, or seqexport/plugins in the user's data folder. Throws UserError where there is no such folder.
std::filesystem::path plugins_folder();

// The one that plugins.json in that folder names, if it does. Throws UserError: missing, damaged, or of another seqexport.
std::optional<PluginLibrary> built_library(const PluginKind& kind);

// The file `given`; one that a plugins.json beside it names is held to that. Throws UserError likewise.
PluginLibrary given_library(const PluginKind& kind, const std::filesystem::path& given);

}  // namespace seqexport
