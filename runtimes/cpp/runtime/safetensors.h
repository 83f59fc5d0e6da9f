// The safetensors format: a header of JSON that says where each tensor lies, and their bytes.
// https://github.com/huggingface/safetensors
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace seqexport {

struct TensorView {
  std::string dtype;  // as the format spells it: F32, I64, ...
  std::vector<int64_t> shape;
  std::string_view bytes;
};

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

struct Safetensors {
  std::map<std::string, std::string> metadata;
  std::map<std::string, TensorView> tensors;  // views of what was parsed
};

// A file with the tensors in the order given.
std::string format_safetensors(const std::map<std::string, std::string>& metadata,
                               const std::vector<NamedTensor>& tensors);

// Throws std::invalid_argument or nlohmann's json::exception for what is no whole file.
Safetensors parse_safetensors(std::string_view file);

}  // namespace seqexport
