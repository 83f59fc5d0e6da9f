// An engine's record: what is read names a plan in its own folder, and has a version that can be compared.
#include "error.h"
#include "reading.h"
#include "record.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace seqexport;
  const std::filesystem::path file = fuzz::folder() / "x.json";
  fuzz::write(file, {reinterpret_cast<const char*>(data), size});
  try {
    const trt::Record record = trt::read_record(fuzz::folder(), file, "build it again");
    fuzz::require((fuzz::folder() / record.plan).parent_path() == fuzz::folder(), "the plan lies beside its record");
    fuzz::require(trt::release(record.tensorrt)[0] < 1000000000, "a version is a number");
    fuzz::require(!record.profiles.empty() ? record.profile(record.profiles[0]) == 0 : true, "the first profile is it");
  } catch (const UserError& error) {
    fuzz::require_line(plain(error.what()));
  }
  return 0;
}
