#include "manifest.h"

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "error.h"
#include "external_data.h"
#include "files.h"
#include "json_numbers.h"
#include "steady.h"

namespace seqexport {
namespace {

using nlohmann::json;

constexpr int kOldestVersion = 1, kFormatVersion = 2;
constexpr char kManifest[] = "seqexport.json";
constexpr int64_t kMostAxis = (int64_t(1) << 31) - 1, kMostTokens = kMostAxis;

Axis axis_from(const json& value) {
  if (!value.is_string()) return {whole<int64_t>(value, 0, kMostAxis), ""};
  const std::string name = value.get<std::string>();
  if (name.empty()) throw std::invalid_argument("an axis without size and name");
  return {-1, name};
}

std::vector<Axis> shape_from(const json& axes) {
  std::vector<Axis> shape;
  for (const json& axis : axes) shape.push_back(axis_from(axis));
  return shape;
}

// Format version 1 calls a state's kind its leaf.
State state_from(const json& state) {
  const std::string kind = state.at(state.contains("kind") ? "kind" : "leaf").get<std::string>();
  const std::string place = std::to_string(whole<int64_t>(state.at("layer"), 0)) + "." + kind;
  return {state.value("past", "past_key_values." + place), state.value("present", "present." + place),
          state.at("dtype").get<std::string>(), shape_from(state.at("shape"))};
}

// Format version 1 has its fields beside all others, and every graph is a language model's.
std::optional<LanguageModel> language_model_from(const json& manifest) {
  const bool apart = manifest.contains("language_model");
  if (!apart && !manifest.contains("vocab_size")) return std::nullopt;
  const json& model = apart ? manifest["language_model"] : manifest;
  if (model.is_null()) return std::nullopt;
  return LanguageModel{whole<int64_t>(model.at("vocab_size"), 1, kMostTokens),
                       whole_numbers<int64_t>(model.at("eos_token_ids")), model.at("logits").get<std::string>() == "all"};
}

Bundle bundle_from(const json& manifest, const std::filesystem::path& folder) {
  Bundle bundle;
  bundle.folder = folder;
  bundle.dtype = manifest.at("dtype").get<std::string>();
  bundle.target = manifest.at("target").get<std::string>();
  bundle.opset = whole<int>(manifest.at("opset"));
  const auto capacity = manifest.find("capacity");
  if (capacity != manifest.end() && !capacity->is_null()) bundle.capacity = whole<int64_t>(*capacity, 1, kMostTokens);
  for (const json& input : manifest.at("inputs"))
    bundle.inputs.push_back({input.at("name").get<std::string>(), shape_from(input.at("shape"))});
  for (const json& output : manifest.at("outputs")) bundle.outputs.push_back(output.at("name").get<std::string>());
  for (const json& state : manifest.at("states")) bundle.states.push_back(state_from(state));
  if (!bundle.capacity && std::any_of(bundle.states.begin(), bundle.states.end(), std::mem_fn(&State::grows)))
    throw std::invalid_argument("states that grow, and no capacity");
  bundle.language_model = language_model_from(manifest);
  bundle.caches_in_place = manifest.at("caches_in_place").get<bool>();
  bundle.weights = manifest.at("source").value("weights", "");
  bundle.tokenizer = manifest.at("files").value("tokenizer.json", "");
  for (const auto& [op, count] : manifest.at("ops").items()) bundle.ops[op] = whole<int64_t>(count, 0);
  const json& files = manifest.at("files");
  bundle.model = {folder / "model.onnx", files.at("model.onnx").get<std::string>(), files.value("model.onnx.data", "")};
  return bundle;
}

void check_version(const json& manifest, const std::string& file) {
  const int version = whole<int>(manifest.at("format_version"));
  if (version >= kOldestVersion && version <= kFormatVersion) return;
  throw UserError(file + ": format version " + std::to_string(version) + ", this seqexport reads " +
                  std::to_string(kOldestVersion) + " to " + std::to_string(kFormatVersion) + "; " +
                  (version > kFormatVersion ? "upgrade seqexport" : "export the model again"));
}

// The graph could name any file of the system as the place of its weights.
void check_weights(const std::filesystem::path& model, const json& files) {
  for (const std::string& name : external_data(model)) {
    if (!files.contains(name))
      throw UserError(model.string() + ": has weights in '" + name + "', which " + kManifest +
                      " does not name as a file of the bundle; export the model again");
    check_file(model.parent_path(), name, files[name].get<std::string>());
  }
}

Bundle bundle_in(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kManifest;
  if (!std::filesystem::is_regular_file(file))
    throw UserError(folder.string() +
                    " is not a bundle: it has no seqexport.json; make one with: seqexport onnx "
                    "--model CHECKPOINT -o FOLDER, or give a .onnx file");
  check_own(folder, file);
  const auto damaged = [&](const std::exception& error) {
    return UserError(file.string() + " is damaged: " + error.what() + "; export the model again");
  };
  try {
    const json manifest = json::parse(read_file(file, kSettings));
    check_version(manifest, file.string());
    Bundle bundle = bundle_from(manifest, folder);
    check_file(folder, bundle.model.file.filename().string(), bundle.model.sha256);
    check_weights(bundle.model.file, manifest.at("files"));
    return bundle;
  } catch (const json::parse_error& error) {  // whose words may hold any bytes
    throw damaged(std::invalid_argument("no JSON from byte " + std::to_string(error.byte) + " on"));
  } catch (const json::exception& error) {
    throw damaged(error);
  } catch (const std::invalid_argument& error) {
    throw damaged(error);
  }
}

}  // namespace

bool State::grows() const {
  return std::any_of(shape.begin(), shape.end(), [](const Axis& axis) { return axis.name == "max_len"; });
}

void check_file(const std::filesystem::path& folder, const std::string& name, const std::string& expected) {
  const std::filesystem::path file = folder / name;
  if (!is_inside(folder, name))
    throw UserError((folder / kManifest).string() + ": file '" + name +
                    "' lies outside the bundle; put the file itself into it");
  const std::string actual = sha256_of(file);
  if (actual != expected)
    throw UserError(file.string() + ": sha256 " + actual.substr(0, 12) + "..., expected " + expected.substr(0, 12) +
                    "...; the file was changed or cut short: copy or export the bundle again");
}

Bundle open_bundle(const std::filesystem::path& folder) {
  return steady(folder, [&] { return bundle_in(folder); });
}

}  // namespace seqexport
