#include "plan.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "error.h"
#include "external_data.h"
#include "files.h"

namespace seqexport::trt {
namespace {

using json = nlohmann::ordered_json;  // the profiles stand in the engine's order
namespace fs = std::filesystem;
using Release = std::array<int, 3>;

constexpr int kFormatVersion = 1;

// Of 8.6.0.post1 or, of TensorRT-RTX, RTX 1.7.1.
Release release(const std::string& tensorrt) {
  Release numbers{};
  const char* const text = tensorrt.c_str() + (tensorrt.rfind("RTX ", 0) == 0 ? 4 : 0);
  if (std::sscanf(text, "%d.%d.%d", &numbers[0], &numbers[1], &numbers[2]) < 2)
    throw std::invalid_argument("TensorRT '" + tensorrt + "'");
  return numbers;
}

std::string text_of(const Gpu& gpu, const std::string& tensorrt) { return gpu.name + ", TensorRT " + tensorrt; }

Record record_from(const json& file) {
  Record record;
  if (const int version = file.at("format_version").get<int>(); version != kFormatVersion)
    throw std::invalid_argument("format version " + std::to_string(version) + ", expected " +
                                std::to_string(kFormatVersion));
  record.plan = file.at("plan").get<std::string>();
  if (record.plan.empty() || fs::path(record.plan).filename() != record.plan)
    throw std::invalid_argument("a plan in another folder");
  record.sha256 = file.at("sha256").get<std::string>();
  record.gpu = {file.at("gpu").get<std::string>(), file.at("compute_capability").get<std::string>()};
  record.tensorrt = file.at("tensorrt").get<std::string>();
  release(record.tensorrt);
  record.model_sha256 = file.at("model_sha256").get<std::string>();
  if (const auto weights = file.find("weights_sha256"); weights != file.end() && !weights->is_null())
    record.weights_sha256 = weights->get<std::string>();
  if (const json& plugins = file.at("plugins"); !plugins.is_null())
    record.plugins = plugins.at("version").get<std::string>();
  for (const auto& [name, shapes] : file.at("profiles").items()) record.profiles.push_back(name);
  record.version_compatible = file.at("flags").contains("--versionCompatible");
  record.carries_plugins = file.at("flags").contains("--setPluginsToSerialize");
  return record;
}

Record read_record(const Bundle& bundle, const fs::path& file, const std::string& rebuild) {
  check_own(bundle.folder, file);
  try {
    return record_from(json::parse(read_file(file, kSettings)));
  } catch (const json::exception& error) {
    throw UserError(file.string() + " is no engine's record: " + error.what() + "; " + rebuild);
  } catch (const std::invalid_argument& error) {
    throw UserError(file.string() + " is no engine's record: " + error.what() + "; " + rebuild);
  }
}

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

}  // namespace

std::string build_again(const Bundle& bundle) {
  return "build one on this machine with: seqexport build " + bundle.folder.string() + ", or seqexport-build";
}

size_t Record::profile(const std::string& name) const {
  const auto found = std::find(profiles.begin(), profiles.end(), name);
  if (found == profiles.end()) throw UserError(plan + ": has no profile " + name + "; build it again as a bundle's engine");
  return size_t(found - profiles.begin());
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
  const fs::path folder = bundle.folder / "engines", exact = folder / (engine_name(here) + ".json");
  const std::string rebuild = build_again(bundle), now = text_of(here, tensorrt_release());
  std::string others;
  for (const fs::path& file : fs::exists(exact) ? std::vector<fs::path>{exact} : records_in(folder)) {
    Record record = read_record(bundle, file, rebuild);
    if (runs_on(record, here)) return checked(bundle, folder, std::move(record), rebuild);
    const std::string built_for = text_of(record.gpu, record.tensorrt);
    if (file == exact)
      throw UserError(fs::path(exact).replace_extension(".plan").string() + ": built for " + built_for + ", and this is " +
                      now + "; " + rebuild);
    others += (others.empty() ? "" : " and ") + built_for;
  }
  throw UserError(bundle.folder.string() + " has no engine for " + now +
                  (others.empty() ? "" : "; " + folder.string() + " has engines for: " + others) + "; " + rebuild);
}

}  // namespace seqexport::trt
