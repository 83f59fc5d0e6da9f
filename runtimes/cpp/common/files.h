// Files: hashed, read, and written so that a name never stands for half a file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace seqexport {

// Throws UserError if the file cannot be read, or is no regular file.
std::string sha256_of(const std::filesystem::path& file);
std::string sha256_of(const void* data, size_t size);

// Bytes at most of a file of settings, of a tokenizer, of a graph, and of what its own sha256 or user answers for: as
// plugins/reading.py has them.
constexpr uintmax_t kSettings = uintmax_t(1) << 22, kWords = uintmax_t(1) << 28, kProtobuf = uintmax_t(1) << 31,
                    kAny = uintmax_t(1) << 62;

// Throws UserError if the file cannot be read, is no regular file, or is of more bytes than `most`.
std::string read_file(const std::filesystem::path& file, uintmax_t most);

// The first `bytes` of a file, or all that it has. Throws UserError likewise.
std::string read_beginning(const std::filesystem::path& file, size_t bytes);

// The sole right to write a file, as plugins/publish.py has it and under the same names: it waits for others, and ends
// with the process. Where a file system has no locks, nobody waits.
class OutputLock {
 public:
  explicit OutputLock(std::filesystem::path path) : path_(std::move(path)) {}
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;
  ~OutputLock() { release(); }
  void take();  // throws std::system_error
  void release() noexcept;
  bool held() const { return descriptor_ >= 0; }

 private:
  bool is_there() const;

  std::filesystem::path path_;
  int descriptor_ = -1;
};

// A new content for `file`, whose lock it holds: in a temporary file beside it until commit() renames that. Without
// commit() it vanishes, and the folders that were made for it. What a process that was killed left is taken over.
class PendingFile {
 public:
  // Throws UserError if it cannot be written, or a folder has its name.
  explicit PendingFile(std::filesystem::path file);
  PendingFile(std::filesystem::path file, const void* data, size_t size) : PendingFile(std::move(file)) {
    write(data, size);
  }
  PendingFile(const PendingFile&) = delete;
  PendingFile& operator=(const PendingFile&) = delete;
  ~PendingFile();
  // Throws UserError if it cannot be written.
  void write(const void* data, size_t size);
  // Gives what was written another name too, which is nobody's. Throws UserError if it cannot.
  void name_too(const std::filesystem::path& other);
  // Throws UserError if it fails; the file is then what it was. After it, another content can be written.
  void commit();
  // Brings back what the file was before the first commit().
  void undo();

 private:
  void keep_before();
  void vanish() noexcept;

  std::filesystem::path file_, temporary_, before_;
  OutputLock lock_;
  bool has_before_ = false, committed_ = false;
  std::vector<std::filesystem::path> made_;  // folders, the innermost first
};

// Throws UserError if a file of this name cannot be written; leaves nothing behind.
void require_writable(const std::filesystem::path& file);

}  // namespace seqexport
