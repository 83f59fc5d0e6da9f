#include "files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "error.h"
#include "sha256.h"

namespace seqexport {
namespace {

namespace fs = std::filesystem;

UserError failure(const fs::path& file, const std::error_code& code) {
  return UserError(file.string() + ": cannot be written (" + code.message() + "); nothing was left behind");
}

std::ifstream open_to_read(const fs::path& file) {
  const auto refused = [&](const std::string& why) { return UserError(file.string() + ": cannot be read (" + why + ")"); };
  std::error_code unknown;
  const fs::file_status status = fs::status(file, unknown);
  if (fs::is_directory(status)) throw refused(std::strerror(EISDIR));
  if (fs::exists(status) && !fs::is_regular_file(status))  // a pipe would be waited for
    throw refused("a pipe, a socket or a device; expected a regular file");
  std::ifstream stream(file, std::ios::binary);
  if (!stream.is_open()) throw refused(std::strerror(errno));
  return stream;
}

void write_all(const fs::path& file, const void* data, size_t size) {
  std::unique_ptr<FILE, int (*)(FILE*)> stream(std::fopen(file.c_str(), "wb"), &std::fclose);
  const bool written = stream && std::fwrite(data, 1, size, stream.get()) == size && std::fflush(stream.get()) == 0 &&
                       fsync(fileno(stream.get())) == 0;
  if (!written) throw std::system_error(errno, std::generic_category());
}

// `.NAME.kind`; of a long name, its hash.
fs::path beside(const fs::path& file, const char* kind) {
  constexpr size_t kLongestName = 100;
  std::string name = file.filename().string();
  if (name.size() > kLongestName) name = sha256_of(name.data(), name.size()).substr(0, 32);
  return file.parent_path() / ("." + name + "." + kind);
}

// The names in it, to the disk, where its file system can.
void sync_folder(const fs::path& file) noexcept {
  const fs::path folder = file.parent_path();
  const int descriptor = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

}  // namespace

std::string sha256_of(const void* data, size_t size) {
  Sha256 digest;
  digest.update(data, size);
  return digest.hex();
}

std::string sha256_of(const fs::path& file) {
  std::ifstream stream = open_to_read(file);
  std::vector<char> block(size_t(1) << 16);
  Sha256 digest;
  while (stream.read(block.data(), std::streamsize(block.size())) || stream.gcount() > 0)
    digest.update(block.data(), size_t(stream.gcount()));
  if (stream.bad()) throw UserError(file.string() + ": cannot be read to its end");
  return digest.hex();
}

std::string read_file(const fs::path& file, uintmax_t most) {
  std::ifstream stream = open_to_read(file);
  std::error_code unknown;
  const uintmax_t size = fs::file_size(file, unknown);
  if (!unknown && size > most)
    throw UserError(file.string() + ": cannot be read (" + std::to_string(size) + " bytes; expected at most " +
                    std::to_string(most) + ")");
  std::string content;
  if (!unknown) content.reserve(size);
  std::vector<char> block(size_t(1) << 16);
  while (stream.read(block.data(), std::streamsize(block.size())) || stream.gcount() > 0)
    content.append(block.data(), size_t(stream.gcount()));
  if (stream.bad()) throw UserError(file.string() + ": cannot be read to its end");
  return content;
}

std::string read_beginning(const fs::path& file, size_t bytes) {
  std::ifstream stream = open_to_read(file);
  std::error_code unknown;
  const uintmax_t size = fs::file_size(file, unknown);
  std::string content(unknown ? bytes : size_t(std::min<uintmax_t>(bytes, size)), '\0');
  stream.read(content.data(), std::streamsize(content.size()));
  content.resize(size_t(stream.gcount()));
  return content;
}

void OutputLock::take() {
  while (descriptor_ < 0) {
    descriptor_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (descriptor_ < 0) throw std::system_error(errno, std::generic_category());
    while (flock(descriptor_, LOCK_EX) && errno == EINTR) continue;
    if (is_there()) return;
    close(std::exchange(descriptor_, -1));  // the one before removed it
  }
}

void OutputLock::release() noexcept {
  if (descriptor_ < 0) return;
  if (is_there()) unlink(path_.c_str());
  close(std::exchange(descriptor_, -1));
}

bool OutputLock::is_there() const {
  struct stat ours, there;
  return !fstat(descriptor_, &ours) && !stat(path_.c_str(), &there) && ours.st_ino == there.st_ino &&
         ours.st_dev == there.st_dev;
}

PendingFile::PendingFile(fs::path file)
    : file_(std::move(file)), temporary_(beside(file_, "new")), before_(beside(file_, "old")),
      lock_(beside(file_, "lock")) {
  for (fs::path folder = file_.parent_path(); !folder.empty() && !fs::exists(folder); folder = folder.parent_path())
    made_.push_back(folder);
  try {
    if (fs::is_directory(file_)) throw std::system_error(EISDIR, std::generic_category());
    if (file_.has_parent_path()) fs::create_directories(file_.parent_path());
    lock_.take();
    if (fs::exists(before_)) fs::exists(file_) ? void(fs::remove(before_)) : fs::rename(before_, file_);
  } catch (const std::system_error& error) {
    vanish();
    throw failure(file_, error.code());
  }
}

PendingFile::~PendingFile() { vanish(); }

void PendingFile::write(const void* data, size_t size) try {
  fs::remove(temporary_);  // which may have another name too
  write_all(temporary_, data, size);
} catch (const std::system_error& error) {
  throw failure(file_, error.code());
}

void PendingFile::vanish() noexcept {
  std::error_code ignored;
  if (lock_.held()) fs::remove(temporary_, ignored);
  if (has_before_) fs::remove(before_, ignored);
  lock_.release();
  for (const fs::path& folder : made_) fs::remove(folder, ignored);  // those that hold something stay
}

void PendingFile::name_too(const fs::path& other) try {
  fs::remove(other);
  std::error_code unlinked;
  fs::create_hard_link(temporary_, other, unlinked);
  if (unlinked) fs::copy_file(temporary_, other);  // a file system without links
  sync_folder(other);
} catch (const fs::filesystem_error& error) {
  throw failure(other, error.code());
}

void PendingFile::keep_before() {
  if (committed_ || !fs::exists(file_)) return;
  std::error_code unlinked;
  fs::create_hard_link(file_, before_, unlinked);
  if (unlinked) fs::rename(file_, before_);  // a file system without links
  has_before_ = true;
}

void PendingFile::commit() try {
  keep_before();
  fs::rename(temporary_, file_);
  committed_ = true;
  sync_folder(file_);
} catch (const fs::filesystem_error& error) {
  undo();
  throw failure(file_, error.code());
}

void PendingFile::undo() {
  std::error_code ignored;
  if (has_before_)
    fs::rename(before_, file_, ignored);
  else if (committed_)
    fs::remove(file_, ignored);
  has_before_ = committed_ = false;
}

void require_writable(const fs::path& file) { PendingFile(file, "", 0); }

}  // namespace seqexport
