#include "plugin_library.h"

#include <elf.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "error.h"
#include "files.h"

namespace seqexport {
namespace {

namespace fs = std::filesystem;

std::string again() { return std::string("; build it again: ") + kBuildPlugins; }

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
                  "SEQEXPORT_PLUGINS to the folder of the plugin libraries, or give --plugins=FILE");
}

// The one that the manifest in a folder names, which is not looked at; nothing where it names none.
std::optional<PluginLibrary> named_library(const PluginKind& kind, const fs::path& folder) {
  const std::optional<PluginEntry> entry = plugin_entry(kind, folder);
  if (!entry) return std::nullopt;
  return PluginLibrary{folder / entry->file, entry->sha256, entry->version, entry->built_for};
}

// Why a library that a manifest names must not be used; empty if it may.
std::string fault_of(const PluginLibrary& library) {
  const std::string file = library.file.string();
  if (!fs::exists(library.file)) return file + ": missing, though plugins.json names it" + again();
  if (library.version != SEQEXPORT_VERSION)
    return file + ": built by seqexport " + library.version + ", this is " + SEQEXPORT_VERSION + again();
  if (sha256_of(library.file) != library.sha256)
    return file + ": damaged, its sha256 is not the one that plugins.json has" + again();
  return "";
}

// Whether it is all there; the loader would crash on one that was cut short.
bool is_whole_library(const fs::path& file) {
  const std::string content = read_file(file, kAny);
  Elf64_Ehdr header;
  if (content.size() < sizeof header || content.compare(0, SELFMAG, ELFMAG) != 0) return false;
  std::memcpy(&header, content.data(), sizeof header);
  return header.e_shoff + uint64_t(header.e_shnum) * header.e_shentsize <= content.size();
}

}  // namespace

fs::path plugins_folder() {
  const fs::path named = variable("SEQEXPORT_PLUGINS"), data = variable("XDG_DATA_HOME");
  if (named == "~" || named.string().rfind("~/", 0) == 0) return home() / named.string().substr(named == "~" ? 1 : 2);
  if (!named.empty()) return fs::absolute(named);
  return (data.is_absolute() ? data : home() / ".local/share") / "seqexport/plugins";
}

std::optional<PluginLibrary> built_library(const PluginKind& kind) {
  fs::path folder;
  try {
    folder = plugins_folder();
  } catch (const UserError&) {  // without a folder, nothing was built
    return std::nullopt;
  }
  std::optional<PluginLibrary> found = named_library(kind, folder);
  while (found) {
    const std::string fault = fault_of(*found);
    if (fault.empty()) break;
    const std::optional<PluginLibrary> now = named_library(kind, folder);
    if (now && now->file == found->file && now->sha256 == found->sha256) throw UserError(fault);
    found = now;  // another was built meanwhile
  }
  return found;
}

PluginLibrary given_library(const PluginKind& kind, const fs::path& given) {
  const fs::path file = fs::absolute(given);
  if (!fs::is_regular_file(file))
    throw UserError(file.string() + ": no such file; --plugins takes the path of " + kind.file);
  const std::optional<PluginLibrary> named = named_library(kind, file.parent_path());
  if (named && named->file == file) {
    if (const std::string fault = fault_of(*named); !fault.empty()) throw UserError(fault);
    return *named;
  }
  if (!is_whole_library(file)) throw UserError(file.string() + ": damaged, not a whole shared library" + again());
  return {file, sha256_of(file), "", {}};
}

}  // namespace seqexport
