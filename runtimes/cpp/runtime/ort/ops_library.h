// What computes our ops in ONNX Runtime: the compiled library where it can be used, else the ops' function bodies.
// runtimes/ort/library.py has the same rules.
#pragma once

#include <optional>
#include <string>

#include "api.h"
#include "backend.h"
#include "plugin_library.h"

namespace seqexport::ort {

struct OpsLibrary {
  std::optional<PluginLibrary> library;
  std::string why_not;  // why the function bodies run

  // Throws UserError.
  void register_in(OrtSessionOptions& options) const;
  // As "ops by libseqexport_ort.so 0.1.0".
  std::string description() const;
};

// What is given must load; what `seqexport plugins build` made is passed over where it does not. Throws UserError: it is
// damaged, or of another seqexport.
OpsLibrary find_ops(const Bundle& bundle, const EngineOptions& options);

}  // namespace seqexport::ort
