#include "api.h"

namespace seqexport::ort {
namespace {
const OrtApi* current = nullptr;
}

const OrtApi& api() { return *current; }

void set_api(const OrtApi* given) { current = given; }

void check(OrtStatus* status) {
  if (status == nullptr) return;
  const Refused refused(api().GetErrorCode(status), api().GetErrorMessage(status));
  api().ReleaseStatus(status);
  throw refused;
}

}  // namespace seqexport::ort
