// The command line of seqexport-build.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "flags.h"
#include "profiles.h"

namespace seqexport {

struct Options : CommandLine {  // whose bundle is a folder, or an ONNX file
  std::filesystem::path output, plugins, timing_cache;  // empty: not given
  bool use_plugins = true, version_compatible = false, serialize_plugins = false, verbose = false;
  GivenShapes shapes;
  std::optional<int> optimization_level;
  std::map<std::string, uint64_t> memory_pools;  // bytes, by trtexec's name of the pool
  std::optional<std::vector<std::string>> tactic_sources;
  std::vector<std::string> preview;  // features with + or - before them
  std::map<std::string, std::string> given;  // the flags that shape the engine, as they were spelled; for the record
};

// Throws UserError for anything that it does not know or understand.
Options parse_options(const std::vector<std::string>& arguments);

std::string help_text();

}  // namespace seqexport
