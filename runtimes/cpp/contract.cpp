#include "contract.h"

#include <nlohmann/json.hpp>
#include <stdexcept>

#include "error.h"
#include "files.h"

namespace seqexport {
namespace {

using nlohmann::json;

constexpr int kFormatVersion = 1;

Axis axis_from(const json& value) {
  if (!value.is_string()) return {value.get<int64_t>(), ""};
  const std::string name = value.get<std::string>();
  if (name != "batch" && name != "seq" && name != "max_len") throw std::invalid_argument("unknown axis " + name);
  return {-1, name};
}

Bundle bundle_from(const json& contract, const std::filesystem::path& folder) {
  Bundle bundle;
  bundle.folder = folder;
  bundle.dtype = contract.at("dtype").get<std::string>();
  bundle.target = contract.at("target").get<std::string>();
  if (!contract.at("capacity").is_null()) bundle.capacity = contract.at("capacity").get<int64_t>();
  for (const json& input : contract.at("inputs")) {
    bundle.inputs.push_back({input.at("name").get<std::string>(), {}});
    for (const json& axis : input.at("shape")) bundle.inputs.back().shape.push_back(axis_from(axis));
  }
  bundle.ops = contract.at("ops").get<std::map<std::string, int64_t>>();
  const json& files = contract.at("files");
  bundle.model = {folder / "model.onnx", files.at("model.onnx").get<std::string>(), files.value("model.onnx.data", "")};
  return bundle;
}

void check_file(const std::filesystem::path& file, const std::string& expected) {
  const std::string actual = sha256_of(file);
  if (actual != expected)
    throw UserError(file.string() + ": sha256 " + actual.substr(0, 12) + "..., expected " + expected.substr(0, 12) +
                    "...; the file was changed or cut short: copy or export the bundle again");
}

void check_version(const json& contract, const std::string& file) {
  const int version = contract.at("format_version").get<int>();
  if (version == kFormatVersion) return;
  throw UserError(file + ": format version " + std::to_string(version) + ", this seqexport-build reads " +
                  std::to_string(kFormatVersion) + "; " +
                  (version > kFormatVersion ? "upgrade seqexport" : "export the model again"));
}

}  // namespace

Bundle open_bundle(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "seqexport.json";
  if (!std::filesystem::is_regular_file(file))
    throw UserError(folder.string() +
                    " is not a bundle: it has no seqexport.json; make one with: seqexport onnx "
                    "--model CHECKPOINT -o FOLDER, or give a .onnx file");
  const auto damaged = [&](const std::exception& error) {
    return UserError(file.string() + " is damaged: " + error.what() + "; export the model again");
  };
  try {
    const json contract = json::parse(read_file(file));
    check_version(contract, file.string());
    Bundle bundle = bundle_from(contract, folder);
    check_file(bundle.model.file, bundle.model.sha256);
    if (!bundle.model.weights_sha256.empty()) check_file(folder / "model.onnx.data", bundle.model.weights_sha256);
    return bundle;
  } catch (const json::exception& error) {
    throw damaged(error);
  } catch (const std::invalid_argument& error) {
    throw damaged(error);
  }
}

}  // namespace seqexport
