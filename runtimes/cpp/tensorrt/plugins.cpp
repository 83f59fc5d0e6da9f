#include "plugins.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>

#include "error.h"
#include "tensorrt.h"

namespace seqexport {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr PluginKind kKind = {"tensorrt", "libseqexport_tensorrt.so"};

// TensorRT-RTX 1 has the plugin interface of TensorRT 10 and 11.
void check_major(const fs::path& file, const std::string& built_for) {
  const int major = std::atoi(built_for.c_str());
  if (kRtx ? major < 10 : major != NV_TENSORRT_MAJOR)
    throw UserError(file.string() + ": built for TensorRT " + built_for + ", this is " + tensorrt_title() +
                    "; build it again on this machine: " + kBuildPlugins);
}

// 8.6.0 has a plugin registry of its own: what is compiled for any other's would call other functions of it.
void check_registry() {
  if ((getInferLibVersion() == 8600) == (NV_TENSORRT_VERSION == 8600)) return;
  throw UserError(tensorrt_title() + " is here, and this program was compiled with the headers of " + kCompiledFor +
                  ": plugins are found in 8.6.0 otherwise than in all others; compile it with the headers of the one "
                  "that is here");
}

PluginLibrary required_library() {
  if (std::optional<PluginLibrary> built = built_library(kKind)) return *built;
  throw UserError((plugins_folder() / kKind.file).string() + ": not built on this machine; build it: " + kBuildPlugins +
                  ", give --plugins=FILE, or build a portable bundle with --no-plugins");
}

// What one of the library's functions answers. It is loaded then, for the rest of the process.
std::string ask(const fs::path& file, const char* function) {
  void* library = dlopen(file.c_str(), RTLD_LAZY | RTLD_LOCAL);
  if (!library)
    throw UserError(file.string() + ": cannot be loaded (" + dlerror() + "); build it again: " + kBuildPlugins);
  const auto answer = reinterpret_cast<const char* (*)()>(dlsym(library, function));
  if (!answer)
    throw UserError(file.string() + ": not this seqexport's plugin library (no " + function +
                    "); build it: " + kBuildPlugins);
  return answer();
}

}  // namespace

PluginLibrary find_plugins(const fs::path& given) {
  const PluginLibrary library = given.empty() ? required_library() : given_library(kKind, given);
  const auto built_for = library.built_for.find("tensorrt");
  if (built_for != library.built_for.end()) check_major(library.file, built_for->second);
  return library;
}

void load(PluginLibrary& library, [[maybe_unused]] const Logger& logger) {
  check_registry();
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

PluginLibrary loaded_plugins(const fs::path& given, const Logger& logger) {
  static std::mutex mutex;
  static std::map<std::pair<fs::path, std::string>, PluginLibrary> all;
  const std::lock_guard<std::mutex> lock(mutex);
  PluginLibrary library = find_plugins(given);
  const auto known = all.find({library.file, library.sha256});
  if (known != all.end()) return known->second;
  load(library, logger);
  return all[{library.file, library.sha256}] = library;
}

}  // namespace seqexport
