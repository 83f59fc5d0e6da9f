#include "api.h"

#include "error.h"

namespace seqexport::ort {

const OrtApi& api() {
  static const OrtApi* const found = OrtGetApiBase()->GetApi(18);
  if (!found)
    throw UserError(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + ": expected 1.18 or newer");
  return *found;
}

void check(OrtStatus* status, const std::string& what) {
  if (!status) return;
  const std::string said = api().GetErrorMessage(status);
  const bool no_room = said.find("Failed to allocate memory") != std::string::npos ||
                       said.find("bad_alloc") != std::string::npos;
  api().ReleaseStatus(status);
  if (no_room) throw std::bad_alloc();
  throw UserError(what + ": " + said.substr(0, said.find('\n')));
}

}  // namespace seqexport::ort
