// The engine of a bundle that runs here: found by its record, checked against it. runtimes/trt/record.py has the same rules.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "manifest.h"
#include "record.h"

namespace seqexport::trt {

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
