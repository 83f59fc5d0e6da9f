// Files: hashed, read, and written so that a name never stands for half a file.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace seqexport {

// Throws UserError if the file cannot be read, or is no regular file.
std::string sha256_of(const std::filesystem::path& file);
std::string sha256_of(const void* data, size_t size);

// Throws UserError if the file cannot be read, or is no regular file.
std::string read_file(const std::filesystem::path& file);

// A new content for `file`: in a temporary file beside it until commit() renames that. Without commit() it vanishes,
// and the folders that were made for it.
class PendingFile {
 public:
  // Throws UserError if it cannot be written, or a folder has its name.
  PendingFile(std::filesystem::path file, const void* data, size_t size);
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile();
  // Throws UserError if it fails; the file is then what it was.
  void commit();
  // Brings back what the file was before commit().
  void undo();

 private:
  std::filesystem::path sibling(const char* suffix) const;
  void vanish() noexcept;

  std::filesystem::path file_, temporary_, before_;
  std::vector<std::filesystem::path> made_;  // folders, the innermost first
};

// Throws UserError if a file of this name cannot be written; leaves nothing behind.
void require_writable(const std::filesystem::path& file);

}  // namespace seqexport
