#include "record.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "error.h"
#include "external_data.h"
#include "files.h"
#include "json_numbers.h"

namespace seqexport::trt {
namespace {

using json = nlohmann::ordered_json;  // the profiles stand in the engine's order
namespace fs = std::filesystem;

constexpr int kFormatVersion = 1;

Record record_from(const json& file) {
  Record record;
  if (const int version = whole<int>(file.at("format_version")); version != kFormatVersion)
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

}  // namespace

Release release(const std::string& tensorrt) {
  Release numbers{};
  const char* const text = tensorrt.c_str() + (tensorrt.rfind("RTX ", 0) == 0 ? 4 : 0);
  if (std::sscanf(text, "%9d.%9d.%9d", &numbers[0], &numbers[1], &numbers[2]) < 2)
    throw std::invalid_argument("TensorRT '" + tensorrt + "'");
  return numbers;
}

size_t Record::profile(const std::string& name) const {
  const auto found = std::find(profiles.begin(), profiles.end(), name);
  if (found == profiles.end()) throw UserError(plan + ": has no profile " + name + "; build it again as a bundle's engine");
  return size_t(found - profiles.begin());
}

Record read_record(const fs::path& bundle, const fs::path& file, const std::string& rebuild) {
  check_own(bundle, file);
  const auto refused = [&](const std::exception& error) {
    return UserError(file.string() + " is no engine's record: " + error.what() + "; " + rebuild);
  };
  try {
    return record_from(json::parse(read_file(file, kSettings)));
  } catch (const json::exception& error) {
    throw refused(error);
  } catch (const std::invalid_argument& error) {
    throw refused(error);
  }
}

}  // namespace seqexport::trt
