// The builder's configuration, and its cache of timings.
#pragma once

#include <NvInfer.h>

#include <filesystem>
#include <memory>

#include "logger.h"
#include "options.h"
#include "plugin_library.h"

namespace seqexport {

// Sets what the flags ask for, and float32 without TF32. Throws UserError for what this TensorRT does not have.
void configure(nvinfer1::IBuilderConfig& config, const Options& options, const PluginLibrary* plugins);

// The timings of `file`, if it is there, for the builds of `config`. Empty `file`: none are kept.
class TimingCache {
 public:
  // Throws UserError if the file is of another TensorRT, damaged, or cannot be written.
  TimingCache(nvinfer1::IBuilderConfig& config, std::filesystem::path file, Logger& logger);
  // Warns where it fails: the engine is built by then.
  void save() const;

 private:
  std::filesystem::path file_;
  std::string before_;  // the file's content
  std::unique_ptr<nvinfer1::ITimingCache> cache_;
};

}  // namespace seqexport
