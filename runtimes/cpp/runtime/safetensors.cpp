#include "safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "json_numbers.h"

namespace seqexport {
namespace {

constexpr char kMetadata[] = "__metadata__";
constexpr size_t kSizeBytes = 8, kMaxHeader = 100'000'000;  // the format's own limit

size_t item_bytes(const std::string& dtype) {
  static const std::map<std::string, size_t> sizes = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"I16", 2}, {"U16", 2},
                                                      {"F16", 2},  {"BF16", 2}, {"I32", 4}, {"U32", 4}, {"F32", 4},
                                                      {"I64", 8},  {"U64", 8}, {"F64", 8}};
  const auto found = sizes.find(dtype);
  if (found == sizes.end()) throw std::invalid_argument("a tensor of type " + dtype);
  return found->second;
}

uint64_t little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < kSizeBytes; ++i) value |= uint64_t(uint8_t(bytes[i])) << 8 * i;
  return value;
}

// Whether a tensor of this type and shape takes so many bytes.
bool fits(const TensorView& tensor) {
  size_t items = tensor.bytes.size() / item_bytes(tensor.dtype);
  if (items * item_bytes(tensor.dtype) != tensor.bytes.size()) return false;
  for (const int64_t size : tensor.shape)
    if (size == 0) return items == 0;
  for (const int64_t size : tensor.shape) {
    if (size < 0 || items % size_t(size) != 0) return false;
    items /= size_t(size);
  }
  return items == 1;
}

TensorView view_of(const nlohmann::json& entry, std::string_view data) {
  const std::vector<size_t> offsets = whole_numbers<size_t>(entry.at("data_offsets"));
  if (offsets.size() != 2 || offsets[0] > offsets[1] || offsets[1] > data.size())
    throw std::invalid_argument("a tensor beyond the end of the file");
  TensorView view{entry.at("dtype").get<std::string>(), whole_numbers<int64_t>(entry.at("shape")),
                  data.substr(offsets[0], offsets[1] - offsets[0])};
  if (!fits(view)) throw std::invalid_argument("a tensor that its bytes do not make");
  return view;
}

// Of a file that has all of its header.
nlohmann::json header_of(std::string_view file) {
  const uint64_t bytes = header_bytes(file);
  if (bytes > file.size()) throw std::invalid_argument("a header beyond the end");
  return nlohmann::json::parse(file.substr(kSizeBytes, bytes - kSizeBytes));
}

}  // namespace

std::string format_safetensors(const std::map<std::string, std::string>& metadata,
                               const std::vector<NamedTensor>& tensors) {
  nlohmann::json header = {{kMetadata, metadata}};
  size_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    const size_t start = end;
    end += tensor.bytes.size();
    header[name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {start, end}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + kSizeBytes - 1) / kSizeBytes * kSizeBytes, ' ');  // what follows is aligned
  std::string file;
  file.reserve(kSizeBytes + text.size() + end);
  for (size_t i = 0; i < kSizeBytes; ++i) file += char(uint64_t(text.size()) >> 8 * i & 255);
  file += text;
  for (const NamedTensor& each : tensors) file += each.tensor.bytes;
  return file;
}

uint64_t header_bytes(std::string_view beginning) {
  if (beginning.size() < kSizeBytes) throw std::invalid_argument("no header");
  const uint64_t size = little_endian(beginning);
  if (size > kMaxHeader) throw std::invalid_argument("a header without end");
  return kSizeBytes + size;
}

uint64_t listed_bytes(std::string_view header) {
  const nlohmann::json entries = header_of(header);
  uint64_t end = 0;
  for (const auto& [name, entry] : entries.items())
    if (name != kMetadata) end = std::max(end, whole<uint64_t>(entry.at("data_offsets").at(1)));
  return header.size() + end;
}

Safetensors parse_safetensors(std::string_view file) {
  const nlohmann::json header = header_of(file);
  const std::string_view data = file.substr(header_bytes(file));
  Safetensors parsed;
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadata)
      parsed.metadata = entry.get<std::map<std::string, std::string>>();
    else
      parsed.tensors[name] = view_of(entry, data);
  }
  return parsed;
}

}  // namespace seqexport
