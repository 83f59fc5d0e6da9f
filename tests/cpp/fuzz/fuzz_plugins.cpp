// plugins.json: the library that it names lies in its folder.
#include "error.h"
#include "plugin_manifest.h"
#include "reading.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace seqexport;
  fuzz::write(fuzz::folder() / "plugins.json", {reinterpret_cast<const char*>(data), size});
  try {
    const std::optional<PluginEntry> entry = plugin_entry({"tensorrt", ""}, fuzz::folder());
    if (entry) fuzz::require((fuzz::folder() / entry->file).parent_path() == fuzz::folder(), "the library lies beside it");
  } catch (const UserError& error) {
    fuzz::require_line(plain(error.what()));
  }
  return 0;
}
