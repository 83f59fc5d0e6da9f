// The places of weights that a graph names, and whether they lie inside of its folder.
#include "external_data.h"
#include "reading.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::filesystem::path file = fuzz::folder() / "model.onnx";
  fuzz::write(file, {reinterpret_cast<const char*>(data), size});
  for (const std::string& name : seqexport::external_data(file)) {
    if (!seqexport::is_inside(fuzz::folder(), name)) continue;
    const auto place = std::filesystem::weakly_canonical(fuzz::folder() / name).string();
    fuzz::require(place.rfind(fuzz::folder().string() + "/", 0) == 0, "what is inside lies in the folder");
  }
  return 0;
}
