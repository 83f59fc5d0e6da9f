#include "files.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <system_error>
#include <vector>

#include "error.h"
#include "sha256.h"

namespace seqexport {
namespace {

std::ifstream open_to_read(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (stream.is_open() && !std::filesystem::is_directory(file)) return stream;
  throw UserError(file.string() + ": cannot be read (" + std::strerror(stream.is_open() ? EISDIR : errno) + ")");
}

void write_all(const std::filesystem::path& file, const void* data, size_t size) {
  std::unique_ptr<FILE, int (*)(FILE*)> stream(std::fopen(file.c_str(), "wb"), &std::fclose);
  const bool written = stream && std::fwrite(data, 1, size, stream.get()) == size && std::fflush(stream.get()) == 0 &&
                       fsync(fileno(stream.get())) == 0;
  if (!written) throw std::system_error(errno, std::generic_category());
}

}  // namespace

std::string sha256_of(const void* data, size_t size) {
  Sha256 digest;
  digest.update(data, size);
  return digest.hex();
}

std::string sha256_of(const std::filesystem::path& file) {
  std::ifstream stream = open_to_read(file);
  std::vector<char> block(size_t(1) << 20);
  Sha256 digest;
  while (stream.read(block.data(), std::streamsize(block.size())) || stream.gcount() > 0)
    digest.update(block.data(), size_t(stream.gcount()));
  if (stream.bad()) throw UserError(file.string() + ": cannot be read to its end");
  return digest.hex();
}

std::string read_file(const std::filesystem::path& file) {
  std::ifstream stream = open_to_read(file);
  std::string content((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  if (stream.bad()) throw UserError(file.string() + ": cannot be read to its end");
  return content;
}

PendingFile::PendingFile(std::filesystem::path file, const void* data, size_t size)
    : file_(std::move(file)),
      temporary_(file_.parent_path() / ("." + file_.filename().string() + "." + std::to_string(getpid()))) {
  try {
    if (file_.has_parent_path()) std::filesystem::create_directories(file_.parent_path());
    write_all(temporary_, data, size);
  } catch (const std::system_error& error) {
    std::error_code ignored;
    std::filesystem::remove(temporary_, ignored);
    throw UserError(file_.string() + ": cannot be written (" + error.code().message() + "); nothing was left behind");
  }
}

PendingFile::~PendingFile() {
  std::error_code ignored;
  if (!temporary_.empty()) std::filesystem::remove(temporary_, ignored);
}

void PendingFile::commit() {
  std::error_code failed;
  std::filesystem::rename(temporary_, file_, failed);
  if (failed)
    throw UserError(file_.string() + ": cannot be written (" + failed.message() + "); nothing was left behind");
  temporary_.clear();
}

}  // namespace seqexport
