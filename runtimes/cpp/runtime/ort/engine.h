// A bundle in ONNX Runtime on the CPU.
#pragma once

#include <vector>

#include "api.h"
#include "backend.h"
#include "ops_library.h"

namespace seqexport::ort {

class OrtEngine final : public Engine {
 public:
  OrtEngine(const Bundle& bundle, const EngineOptions& options);

  std::unique_ptr<seqexport::States> states(size_t batch, size_t capacity) const override;
  std::string name() const override { return "ort"; }
  std::string description() const override;

  OrtSession& session() const { return *session_; }
  bool reads(const std::string& input) const;  // whether the graph has it
  bool caches_in_place() const { return caches_in_place_; }

 private:
  void check_interface() const;

  OpsLibrary ops_;
  bool caches_in_place_;
  Owned<OrtEnv> environment_;
  Owned<OrtSession> session_;
};

}  // namespace seqexport::ort
