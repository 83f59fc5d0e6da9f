// What stands beside a plan, read. runtimes/trt/record.py has the same rules.
#pragma once

#include <array>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "gpu.h"

namespace seqexport::trt {

using Release = std::array<int, 3>;

// Of 8.6.0.post1 or, of TensorRT-RTX, RTX 1.7.1. Throws std::invalid_argument if it is no version.
Release release(const std::string& tensorrt);

// As far as running the plan needs it.
struct Record {
  std::string plan, sha256;  // the file's name, and what it holds
  Gpu gpu;
  std::string tensorrt;  // as 8.6.0
  std::string model_sha256, weights_sha256;  // of the graph that it was built from; the second may be empty
  std::optional<std::string> plugins;        // the seqexport of the plugins that it was built with
  std::vector<std::string> profiles;         // by their place in the engine
  bool version_compatible = false, carries_plugins = false;

  size_t profile(const std::string& name) const;  // throws UserError if it has none of that name
};

// A record in a bundle's folder. Throws UserError, which ends with `rebuild`, if it cannot be read or leads out.
Record read_record(const std::filesystem::path& bundle, const std::filesystem::path& file, const std::string& rebuild);

}  // namespace seqexport::trt
