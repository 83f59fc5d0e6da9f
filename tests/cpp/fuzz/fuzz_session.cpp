// A session's file, sealed with the checksum of whatever it holds; one that is restored goes on, and again after it was
// saved, the same. The bundle is the folder in $SEQEXPORT_BUNDLE.
#include <cstdlib>
#include <string>
#include <vector>

#include "files.h"
#include "reading.h"

namespace {

constexpr size_t kDigestBytes = 32;

const seqexport_engine* engine() {
  static seqexport_engine* const opened = [] {
    seqexport_bundle* bundle = nullptr;
    seqexport_engine* made = nullptr;
    const char* const folder = std::getenv("SEQEXPORT_BUNDLE");
    fuzz::require(folder && seqexport_bundle_open(folder, &bundle) == SEQEXPORT_OK &&
                      seqexport_engine_open(bundle, 0, nullptr, &made) == SEQEXPORT_OK,
                  "SEQEXPORT_BUNDLE is a bundle's folder");
    seqexport_bundle_close(bundle);
    return made;
  }();
  return opened;
}

std::string sealed(std::string file) {
  if (file.size() < kDigestBytes) return file;
  const size_t end = file.size() - kDigestBytes;
  const std::string hex = seqexport::sha256_of(file.data(), end);
  for (size_t i = 0; i < kDigestBytes; ++i) file[end + i] = char(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  return file;
}

// The tokens that come next; none where the session cannot go on.
std::vector<int64_t> next(seqexport_session* session) {
  struct Told {
    size_t batch;
    std::vector<int64_t> tokens;
  } told = {seqexport_session_batch(session), {}};
  const auto tell = [](void* user, const int64_t* tokens) {
    auto* const into = static_cast<Told*>(user);
    into->tokens.insert(into->tokens.end(), tokens, tokens + into->batch);
    return 1;
  };
  const auto refusals = {SEQEXPORT_BAD_ARGUMENT, SEQEXPORT_FAILED};
  fuzz::went_well(seqexport_session_generate(session, 3, nullptr, tell, &told), refusals);
  return told.tokens;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string file = (fuzz::folder() / "given").string(), saved = (fuzz::folder() / "saved").string();
  fuzz::write(file, sealed({reinterpret_cast<const char*>(data), size}));
  seqexport_session *session = nullptr, *again = nullptr;
  const auto refusals = {SEQEXPORT_BAD_FILE, SEQEXPORT_BAD_ARGUMENT, SEQEXPORT_NO_MEMORY};
  if (!fuzz::went_well(seqexport_session_restore(engine(), file.c_str(), 0, &session), refusals)) return 0;
  fuzz::went_well(seqexport_session_save(session, saved.c_str()), {});
  fuzz::went_well(seqexport_session_restore(engine(), saved.c_str(), 0, &again), {});
  fuzz::require(next(session) == next(again), "a session goes on as it would have without being saved");
  seqexport_session_close(session);
  seqexport_session_close(again);
  return 0;
}
