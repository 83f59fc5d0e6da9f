#include "plugin_library.h"

#include <dlfcn.h>
#include <elf.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "error.h"
#include "files.h"
#include "plugin_manifest.h"
#include "tensorrt.h"

namespace seqexport {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr char kName[] = "libseqexport_tensorrt.so";

fs::path variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// $HOME, or the folder that the system lists for this user. A relative one counts as none, here and of XDG_DATA_HOME:
// else the library would come from the folder that the program happens to run in.
fs::path home() {
  if (fs::path named = variable("HOME"); named.is_absolute()) return named;
  const passwd* user = getpwuid(getuid());
  if (fs::path listed = user ? user->pw_dir : ""; listed.is_absolute()) return listed;
  throw UserError("HOME: not set to an absolute path, and the system knows no folder of this user; set HOME, or "
                  "SEQEXPORT_PLUGINS to the folder of the plugin library, or give --plugins=FILE");
}

// $SEQEXPORT_PLUGINS, or seqexport/plugins in the user's data folder.
fs::path default_folder() {
  if (fs::path named = variable("SEQEXPORT_PLUGINS"); !named.empty()) return named;
  const fs::path data = variable("XDG_DATA_HOME");
  return (data.is_absolute() ? data : home() / ".local/share") / "seqexport/plugins";
}

// TensorRT-RTX 1 has the plugin interface of TensorRT 10 and 11.
void check_major(const fs::path& file, const std::string& built_for) {
  const int major = std::atoi(built_for.c_str());
  if (kRtx ? major < 10 : major != NV_TENSORRT_MAJOR)
    throw UserError(file.string() + ": built for TensorRT " + built_for + ", this is " + tensorrt_title() +
                    "; build it again on this machine: " + kBuildPlugins);
}

// Whether it is all there; the loader would crash on one that was cut short.
bool is_whole_library(const fs::path& file) {
  const std::string content = read_file(file, kAny);
  Elf64_Ehdr header;
  if (content.size() < sizeof header || content.compare(0, SELFMAG, ELFMAG) != 0) return false;
  std::memcpy(&header, content.data(), sizeof header);
  return header.e_shoff + uint64_t(header.e_shnum) * header.e_shentsize <= content.size();
}

// What one of the library's functions answers. It is loaded then, for the rest of the process.
std::string ask(const fs::path& file, const char* function) {
  void* library = dlopen(file.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (!library) throw UserError(file.string() + ": cannot be loaded (" + dlerror() + "); build it again: " + kBuildPlugins);
  const auto answer = reinterpret_cast<const char* (*)()>(dlsym(library, function));
  if (!answer)
    throw UserError(file.string() + ": not this seqexport's plugin library (no " + function + "); build it: " + kBuildPlugins);
  return answer();
}

}  // namespace

PluginLibrary find_plugin_library(const fs::path& given) {
  const fs::path folder = given.empty() ? fs::absolute(default_folder()) : fs::absolute(given).parent_path();
  std::optional<PluginEntry> entry = plugin_entry(folder);
  const std::string named = entry ? entry->file : kName;
  const fs::path file = given.empty() ? folder / named : fs::absolute(given);
  if (file.filename() != named) entry.reset();
  if (!fs::is_regular_file(file))
    throw UserError(file.string() + (given.empty()
                                         ? ": not built on this machine; build it: " + std::string(kBuildPlugins) +
                                               ", give --plugins=FILE, or build a portable bundle with "
                                               "--no-plugins"
                                         : ": no such file; --plugins takes the path of " + std::string(kName)));
  PluginLibrary library{file, sha256_of(file), ""};
  if (!entry) return library;
  if (entry->sha256 != library.sha256)
    throw UserError(file.string() +
                    ": damaged, its sha256 is not the one that plugins.json has; build it again: " + kBuildPlugins);
  if (entry->version != SEQEXPORT_VERSION)
    throw UserError(file.string() + ": built by seqexport " + entry->version + ", this is " + SEQEXPORT_VERSION +
                    "; build it again: " + kBuildPlugins);
  if (!entry->tensorrt.empty()) check_major(file, entry->tensorrt);
  return library;
}

void load(PluginLibrary& library, [[maybe_unused]] const Logger& logger) {
  if (!is_whole_library(library.file))
    throw UserError(library.file.string() + ": damaged, not a whole shared library; build it again: " + kBuildPlugins);
  const json info = json::parse(ask(library.file, "seqexport_tensorrt_info"));  // before 8.6 that is all: it registers its plugins itself
  check_major(library.file, info.value("tensorrt", ""));
  library.version = info.value("seqexport", "");
  const std::string conflict = ask(library.file, "seqexport_tensorrt_conflict");
  if (!conflict.empty()) throw UserError(library.file.string() + ": " + conflict);
#if SEQEXPORT_TENSORRT_SINCE(8, 6)
  if (!getPluginRegistry()->loadLibrary(library.file.c_str()))
    throw UserError(library.file.string() + ": TensorRT refuses it (" + logger.cause() +
                    "); build it again: " + kBuildPlugins);
#endif
}

PluginLibrary loaded_plugin_library(const fs::path& given, const Logger& logger) {
  static std::mutex mutex;
  static std::map<std::pair<fs::path, std::string>, PluginLibrary> all;
  const std::lock_guard<std::mutex> lock(mutex);
  PluginLibrary library = find_plugin_library(given);
  const auto known = all.find({library.file, library.sha256});
  if (known != all.end()) return known->second;
  load(library, logger);
  return all[{library.file, library.sha256}] = library;
}

}  // namespace seqexport
