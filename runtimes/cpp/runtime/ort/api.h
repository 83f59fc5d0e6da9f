// ONNX Runtime's C interface: its objects owned, its errors thrown.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>

namespace seqexport::ort {

// The oldest interface that we speak (ONNX Runtime 1.18); newer runtimes still serve it. Throws UserError if this one is
// older still.
const OrtApi& api();

// Throws UserError: `what`, and the first line of what ONNX Runtime says.
void check(OrtStatus* status, const std::string& what);

struct Release {
  void operator()(OrtEnv* p) const { api().ReleaseEnv(p); }
  void operator()(OrtSession* p) const { api().ReleaseSession(p); }
  void operator()(OrtSessionOptions* p) const { api().ReleaseSessionOptions(p); }
  void operator()(OrtMemoryInfo* p) const { api().ReleaseMemoryInfo(p); }
  void operator()(OrtValue* p) const { api().ReleaseValue(p); }
  void operator()(OrtIoBinding* p) const { api().ReleaseIoBinding(p); }
};

template <class T>
using Owned = std::unique_ptr<T, Release>;

}  // namespace seqexport::ort
