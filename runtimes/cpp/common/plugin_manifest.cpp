#include "plugin_manifest.h"

#include <nlohmann/json.hpp>

#include "error.h"
#include "external_data.h"
#include "files.h"

namespace seqexport {

using nlohmann::json;
namespace fs = std::filesystem;

std::optional<PluginEntry> plugin_entry(const PluginKind& kind, const fs::path& folder) {
  const fs::path manifest = folder / "plugins.json";
  if (!fs::exists(manifest)) return std::nullopt;
  const auto refuse = [&](const std::string& why) {
    throw UserError(manifest.string() + ": not a manifest of plugin libraries (" + why +
                    "); build again: " + kBuildPlugins);
  };
  check_own(folder, manifest);
  try {
    const json all = json::parse(read_file(manifest, kSettings));
    if (!all.contains(kind.name)) return std::nullopt;
    const json& entry = all[kind.name];
    const std::string file = entry.at("file");
    if (file.empty() || fs::path(file).filename() != file) refuse("'" + file + "' is no name of a file beside it");
    return PluginEntry{file, entry.at("sha256"), entry.at("seqexport"), entry.at("built_for")};
  } catch (const json::exception& error) {
    refuse(error.what());
  }
  return std::nullopt;
}

}  // namespace seqexport
