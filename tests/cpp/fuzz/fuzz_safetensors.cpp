// What parses is written and parsed again, the same.
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "reading.h"
#include "safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace seqexport;
  try {
    const Safetensors parsed = parse_safetensors({reinterpret_cast<const char*>(data), size});
    std::vector<NamedTensor> tensors;
    for (const auto& [name, tensor] : parsed.tensors) tensors.push_back({name, tensor});
    const std::string written = format_safetensors(parsed.metadata, tensors);
    const Safetensors again = parse_safetensors(written);
    fuzz::require(listed_bytes({written.data(), header_bytes(written)}) == written.size(), "it lists all that it has");
    fuzz::require(again.metadata == parsed.metadata, "metadata stay");
    fuzz::require(again.tensors.size() == parsed.tensors.size(), "tensors stay");
    for (const auto& [name, tensor] : parsed.tensors) {
      const TensorView& other = again.tensors.at(name);
      fuzz::require(other.dtype == tensor.dtype && other.shape == tensor.shape && other.bytes == tensor.bytes,
                    "a tensor stays");
    }
  } catch (const nlohmann::json::exception&) {
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
