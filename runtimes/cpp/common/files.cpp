#include "files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

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

std::string read_file(const fs::path& file) {
  std::ifstream stream = open_to_read(file);
  std::string content;
  std::vector<char> block(size_t(1) << 16);
  while (stream.read(block.data(), std::streamsize(block.size())) || stream.gcount() > 0)
    content.append(block.data(), size_t(stream.gcount()));
  if (stream.bad()) throw UserError(file.string() + ": cannot be read to its end");
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

PendingFile::PendingFile(fs::path file, const void* data, size_t size)
    : file_(std::move(file)), temporary_(beside(file_, "new")), before_(beside(file_, "old")),
      lock_(beside(file_, "lock")) {
  for (fs::path folder = file_.parent_path(); !folder.empty() && !fs::exists(folder); folder = folder.parent_path())
    made_.push_back(folder);
  try {
    if (fs::is_directory(file_)) throw std::system_error(EISDIR, std::generic_category());
    if (file_.has_parent_path()) fs::create_directories(file_.parent_path());
    lock_.take();
    if (fs::exists(before_)) fs::exists(file_) ? void(fs::remove(before_)) : fs::rename(before_, file_);
    write_all(temporary_, data, size);
  } catch (const std::system_error& error) {
    vanish();
    throw failure(file_, error.code());
  }
}

PendingFile::~PendingFile() { vanish(); }

void PendingFile::vanish() noexcept {
  std::error_code ignored;
  if (lock_.held()) fs::remove(temporary_, ignored);
  if (has_before_) fs::remove(before_, ignored);
  lock_.release();
  for (const fs::path& folder : made_) fs::remove(folder, ignored);  // those that hold something stay
}

void PendingFile::commit() {
  std::error_code failed, unlinked;
  if (fs::exists(file_)) {
    fs::create_hard_link(file_, before_, unlinked);
    if (unlinked) fs::rename(file_, before_, failed);  // a file system without links
    has_before_ = !failed;
  }
  if (!failed) fs::rename(temporary_, file_, failed);
  if (!failed) return sync_folder(file_);
  undo();
  throw failure(file_, failed);
}

void PendingFile::undo() {
  std::error_code ignored;
  if (has_before_)
    fs::rename(before_, file_, ignored);
  else
    fs::remove(file_, ignored);
  has_before_ = false;
}

void require_writable(const fs::path& file) { PendingFile(file, "", 0); }

}  // namespace seqexport
