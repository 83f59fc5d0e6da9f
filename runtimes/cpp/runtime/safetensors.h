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

// The bytes that a file begins with before its tensors, of which the first 8 say it; and with its tensors, of which all
// before them say it. Both throw as parse_safetensors does.
uint64_t header_bytes(std::string_view beginning);
uint64_t listed_bytes(std::string_view header);

// Throws std::invalid_argument or nlohmann's json::exception for what is no whole file.
Safetensors parse_safetensors(std::string_view file);

}  // namespace seqexport
