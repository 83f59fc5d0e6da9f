// seqexport.json; where that opens, a session of the bundle reads a prompt, is saved, and restored.
#include <string>

#include "reading.h"

namespace {

constexpr auto kRefused = {SEQEXPORT_BAD_ARGUMENT, SEQEXPORT_FAILED, SEQEXPORT_BAD_FILE, SEQEXPORT_NO_MEMORY};

void use(const seqexport_engine* engine) {
  const std::string file = (fuzz::folder() / "session").string();
  const int64_t tokens[] = {0, 0, 0};
  seqexport_session *session = nullptr, *restored = nullptr;
  if (fuzz::went_well(seqexport_session_open(engine, 1, 5, &session), kRefused) &&
      fuzz::went_well(seqexport_session_prefill(session, tokens, 3, nullptr), kRefused) &&
      fuzz::went_well(seqexport_session_save(session, file.c_str()), kRefused))
    fuzz::require(fuzz::went_well(seqexport_session_restore(engine, file.c_str(), 5, &restored), {}),
                  "what was saved is restored");
  seqexport_session_close(restored);
  seqexport_session_close(session);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::write(fuzz::folder() / "model.onnx", "");  // whose sha256 manifests of the corpus have
  fuzz::write(fuzz::folder() / "seqexport.json", {reinterpret_cast<const char*>(data), size});
  seqexport_bundle* bundle = nullptr;
  if (!fuzz::went_well(seqexport_bundle_open(fuzz::folder().c_str(), &bundle), {SEQEXPORT_BAD_BUNDLE})) return 0;
  seqexport_engine* engine = nullptr;
  if (fuzz::went_well(seqexport_engine_open(bundle, 0, nullptr, &engine), {SEQEXPORT_BAD_BUNDLE})) use(engine);
  seqexport_engine_close(engine);
  seqexport_bundle_close(bundle);
  return 0;
}
