#include "plan.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "error.h"
#include "external_data.h"
#include "files.h"
#include "tensorrt.h"

namespace seqexport::trt {
namespace {

namespace fs = std::filesystem;

std::string text_of(const Gpu& gpu, const std::string& tensorrt) { return gpu.name + ", TensorRT " + tensorrt; }

// Whether it was built for this GPU and TensorRT; a version-compatible one runs from its version on.
bool runs_on(const Record& record, const Gpu& here) {
  const bool any = kRtx && record.gpu.compute_capability.empty();
  if (!any && (record.gpu.name != here.name || record.gpu.compute_capability != here.compute_capability)) return false;
  if ((record.tensorrt.rfind("RTX ", 0) == 0) != kRtx) return false;
  const Release own = release(record.tensorrt), now = release(tensorrt_release());
  return own == now || (record.version_compatible && own[0] == now[0] && own < now);
}

std::vector<fs::path> records_in(const fs::path& folder) {
  std::vector<fs::path> files;
  std::error_code none;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, none))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

Plan checked(const Bundle& bundle, const fs::path& folder, Record record, const std::string& rebuild) {
  const fs::path file = folder / record.plan;
  check_own(bundle.folder, file);
  if (!fs::is_regular_file(file))
    throw UserError(file.string() + ": missing, though its record is there; " + rebuild);
  MappedFile content(file);
  const std::string actual = sha256_of(content.data(), content.size());
  if (actual != record.sha256)
    throw UserError(file.string() + ": sha256 " + actual.substr(0, 12) + "..., its record has " +
                    record.sha256.substr(0, 12) + "...; " + rebuild);
  const bool same_weights = record.weights_sha256.empty() || record.weights_sha256 == bundle.model.weights_sha256;
  if (record.model_sha256 != bundle.model.sha256 || !same_weights)
    throw UserError(file.string() + ": built from another model than " + bundle.model.file.string() + "; " + rebuild);
  return {file, std::move(record), std::move(content)};
}

Record record_for(const Bundle& bundle, const Gpu& here, const std::string& rebuild) {
  const fs::path folder = bundle.folder / "engines", exact = folder / (engine_name(here) + ".json");
  const std::string now = text_of(here, tensorrt_release());
  std::string others;
  for (const fs::path& file : fs::exists(exact) ? std::vector<fs::path>{exact} : records_in(folder)) {
    Record record = read_record(bundle.folder, file, rebuild);
    if (runs_on(record, here)) return record;
    const std::string built_for = text_of(record.gpu, record.tensorrt);
    if (file == exact)
      throw UserError(fs::path(exact).replace_extension(".plan").string() + ": built for " + built_for + ", and this is " +
                      now + "; " + rebuild);
    others += (others.empty() ? "" : " and ") + built_for;
  }
  throw UserError(bundle.folder.string() + " has no engine for " + now +
                  (others.empty() ? "" : "; " + folder.string() + " has engines for: " + others) + "; " + rebuild);
}

}  // namespace

std::string build_again(const Bundle& bundle) {
  return "build one on this machine with: seqexport build " + bundle.folder.string() + ", or seqexport-build";
}

MappedFile::MappedFile(const fs::path& file) {
  const auto failed = [&] { return UserError(file.string() + ": cannot be read (" + std::strerror(errno) + ")"); };
  const int descriptor = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) throw failed();
  struct stat status;
  const bool sized = fstat(descriptor, &status) == 0;
  size_ = sized ? size_t(status.st_size) : 0;
  if (size_) data_ = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
  const bool failing = !sized || data_ == MAP_FAILED;
  close(descriptor);
  if (failing) throw failed();
  if (size_) madvise(data_, size_, MADV_SEQUENTIAL);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile::~MappedFile() {
  if (data_) munmap(data_, size_);
}

Plan find_plan(const Bundle& bundle, const Gpu& here) {
  const std::string rebuild = build_again(bundle);
  while (true) {
    Record record = record_for(bundle, here, rebuild);
    const std::string plan = record.plan, sha256 = record.sha256;
    try {
      return checked(bundle, bundle.folder / "engines", std::move(record), rebuild);
    } catch (const UserError&) {
      const Record now = record_for(bundle, here, rebuild);
      if (now.plan == plan && now.sha256 == sha256) throw;  // else another was built meanwhile
    }
  }
}

}  // namespace seqexport::trt
