#include "plugin_manifest.h"

#include <nlohmann/json.hpp>

#include "error.h"
#include "external_data.h"
#include "files.h"

namespace seqexport {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

std::optional<PluginEntry> entry_from(const json& manifest) {
  if (!manifest.is_object() || !manifest.contains("tensorrt")) return std::nullopt;
  const json& entry = manifest["tensorrt"];
  PluginEntry read{entry.at("file").get<std::string>(), entry.value("sha256", ""), entry.value("seqexport", ""), ""};
  if (const auto built_for = entry.find("built_for"); built_for != entry.end())
    read.tensorrt = built_for->value("tensorrt", "");
  return read.file.empty() || fs::path(read.file).filename() != read.file ? std::nullopt : std::optional(read);
}

}  // namespace

const char kBuildPlugins[] = "seqexport plugins build";

std::optional<PluginEntry> plugin_entry(const fs::path& folder) {
  const fs::path manifest = folder / "plugins.json";
  if (!fs::exists(manifest)) return std::nullopt;
  check_own(folder, manifest);
  try {
    return entry_from(json::parse(read_file(manifest, kSettings)));
  } catch (const json::exception& error) {
    throw UserError(manifest.string() + ": not a manifest of plugin libraries (" + error.what() +
                    "); build again: " + kBuildPlugins);
  }
}

}  // namespace seqexport
