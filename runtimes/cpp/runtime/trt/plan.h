// The engine of a bundle that runs here: found by its record, checked against it. runtimes/trt/record.py has the same rules.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "manifest.h"
#include "tensorrt.h"

namespace seqexport::trt {

// What stands beside a plan, as far as running it needs it.
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

// A file in memory, as far as it is touched.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& file);  // throws UserError
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  ~MappedFile();

  const void* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

struct Plan {
  std::filesystem::path file;
  Record record;
  MappedFile content;
};

// Throws UserError with the command that builds one: there is none for this GPU and TensorRT, or it is damaged or of another
// model.
Plan find_plan(const Bundle& bundle, const Gpu& here);

// Ends an error about a bundle's engine.
std::string build_again(const Bundle& bundle);

}  // namespace seqexport::trt
