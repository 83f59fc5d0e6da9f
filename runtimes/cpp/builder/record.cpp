#include "record.h"

#include <ctime>
#include <nlohmann/json.hpp>

#include "files.h"

namespace seqexport {
namespace {

using json = nlohmann::ordered_json;  // the profiles stand in the engine's order

constexpr int kFormatVersion = 1;

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  char text[sizeof "2026-11-23 17:05 UTC"];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", std::gmtime(&now));
  return text;
}

json json_of(const std::vector<Profile>& profiles) {
  json all = json::object();
  for (const Profile& profile : profiles)
    for (const auto& [input, shapes] : profile.inputs) all[profile.name][input] = {shapes.min, shapes.opt, shapes.max};
  return all;
}

}  // namespace

std::string record_text(const std::filesystem::path& plan, const std::string& plan_sha256, const Gpu& gpu,
                        const PluginLibrary* plugins, const Model& model, const Engine& engine,
                        const Options& options) {
  json record = {
      {"format_version", kFormatVersion},
      {"plan", plan.filename().string()},
      {"sha256", plan_sha256},
      {"gpu", gpu.name},
      {"compute_capability", gpu.compute_capability},
      {"tensorrt", tensorrt_release()},
      {"seqexport", SEQEXPORT_VERSION},
      {"plugins", nullptr},
      {"model_sha256", model.sha256},
      {"profiles", json_of(engine.profiles)},
      {"flags", options.given},
      {"date", now_text()},
  };
  if (!model.weights_sha256.empty()) record["weights_sha256"] = model.weights_sha256;
  if (plugins) record["plugins"] = {{"sha256", plugins->sha256}, {"version", plugins->version}};
  return record.dump(2) + "\n";
}

std::optional<std::string> plan_of_record(const std::filesystem::path& file) {
  const json record = json::parse(read_file(file, kSettings), nullptr, false);
  if (!record.is_object() || !record.contains("plan") || !record.contains("sha256")) return std::nullopt;
  return record["plan"].is_string() ? record["plan"].get<std::string>() : "";
}

}  // namespace seqexport
