#include "ops_library.h"

#include "error.h"

namespace seqexport::ort {
namespace {

constexpr PluginKind kKind = {"onnxruntime", "libseqexport_ort.so"};

std::string said(const std::string& why) { return kKind.file + (" " + why); }

// Throws UserError if it does not load here.
void try_out(const OpsLibrary& ops) {
  OrtSessionOptions* made = nullptr;
  check(api().CreateSessionOptions(&made), "session options");
  const Owned<OrtSessionOptions> options(made);
  ops.register_in(*options);
}

}  // namespace

void OpsLibrary::register_in(OrtSessionOptions& options) const {
  if (!library) return;
  const std::string file = library->file.string();
  check(api().RegisterCustomOpsLibrary_V2(&options, file.c_str()), file + ": does not load here");
}

std::string OpsLibrary::description() const {
  if (!library) return "ops by function bodies (" + why_not + ")";
  return "ops by " + (library->version.empty() ? library->file.filename().string() : said(library->version));
}

OpsLibrary find_ops(const Bundle& bundle, const EngineOptions& options) {
  if (bundle.ops.empty()) return {std::nullopt, "it has none"};
  if (!options.use_plugins) return {std::nullopt, "no plugins are wanted"};
  const bool is_given = !options.plugins.empty();
  const OpsLibrary ops{is_given ? given_library(kKind, options.plugins) : built_library(kKind), ""};
  if (!ops.library) return {std::nullopt, said("is not built")};
  try {
    try_out(ops);
  } catch (const UserError& error) {
    if (is_given) throw;
    return {std::nullopt, error.what()};
  }
  return ops;
}

}  // namespace seqexport::ort
