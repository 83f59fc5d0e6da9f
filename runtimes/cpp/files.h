// Files: hashed, read, and written so that a name never stands for half a file.
#pragma once

#include <filesystem>
#include <string>

namespace seqexport {

// Throws UserError if the file cannot be read.
std::string sha256_of(const std::filesystem::path& file);
std::string sha256_of(const void* data, size_t size);

// Throws UserError if the file cannot be read.
std::string read_file(const std::filesystem::path& file);

// A new content for `file`: in a temporary file beside it until commit() renames that. Without commit() it vanishes.
class PendingFile {
 public:
  // Makes the folders too. Throws UserError if it cannot be written.
  PendingFile(std::filesystem::path file, const void* data, size_t size);
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile();
  void commit();

 private:
  std::filesystem::path file_, temporary_;
};

}  // namespace seqexport
