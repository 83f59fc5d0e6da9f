// ModelProto      7 graph, 20 training_info, 25 functions
// TrainingInfo    1 initialization, 2 algorithm: graphs
// GraphProto      1 node, 5 initializer, 15 sparse_initializer
// FunctionProto   7 node, 11 attribute_proto
// NodeProto       5 attribute
// AttributeProto  5 t, 6 g, 10 tensors, 11 graphs, 22 sparse_tensor, 23 sparse_tensors
// SparseTensor    1 values, 2 indices
// TensorProto     13 external_data
// its entry       1 key, 2 value
#include "external_data.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string_view>

#include "error.h"
#include "files.h"

namespace seqexport {
namespace {

namespace fs = std::filesystem;

enum class Message { kModel, kTraining, kGraph, kFunction, kNode, kAttribute, kSparse, kTensor, kEntry };

constexpr int kMaxDepth = 200;  // protobuf itself reads no more than 100
constexpr char kMemory[] = "_ORT_MEM_ADDR_";  // in a name that ONNX Runtime takes for an address of its own memory

// By the number of a field, the message that it holds.
const std::map<uint64_t, Message>& fields_of(Message message) {
  using M = Message;
  static const std::map<M, std::map<uint64_t, M>> all = {
      {M::kModel, {{7, M::kGraph}, {20, M::kTraining}, {25, M::kFunction}}},
      {M::kTraining, {{1, M::kGraph}, {2, M::kGraph}}},
      {M::kGraph, {{1, M::kNode}, {5, M::kTensor}, {15, M::kSparse}}},
      {M::kFunction, {{7, M::kNode}, {11, M::kAttribute}}},
      {M::kNode, {{5, M::kAttribute}}},
      {M::kAttribute,
       {{5, M::kTensor}, {6, M::kGraph}, {10, M::kTensor}, {11, M::kGraph}, {22, M::kSparse}, {23, M::kSparse}}},
      {M::kSparse, {{1, M::kTensor}, {2, M::kTensor}}},
      {M::kTensor, {{13, M::kEntry}}},
      {M::kEntry, {}},
  };
  return all.at(message);
}

std::optional<uint64_t> take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0; shift < 70 && !bytes.empty(); shift += 7) {
    const uint8_t byte = uint8_t(bytes.front());
    bytes.remove_prefix(1);
    if (shift < 64) value |= uint64_t(byte & 127) << shift;
    if (byte < 128) return value;
  }
  return std::nullopt;
}

// The payload of a field that holds bytes, empty for any other; none where the bytes are no protobuf.
std::optional<std::string_view> take_payload(std::string_view& bytes, uint64_t kind) {
  if (kind == 0) return take_varint(bytes) ? std::optional(std::string_view()) : std::nullopt;
  if (kind == 3 || kind == 4) return std::string_view();  // a group's begin and end
  const std::optional<uint64_t> size = kind == 2 ? take_varint(bytes) : kind == 1 ? 8 : kind == 5 ? 4
                                                                                 : std::optional<uint64_t>();
  if (!size || *size > bytes.size()) return std::nullopt;
  const std::string_view payload = bytes.substr(0, *size);
  bytes.remove_prefix(*size);
  return kind == 2 ? payload : std::string_view();
}

// Whether the bytes are a whole message.
bool collect(std::string_view bytes, Message message, int depth, std::set<std::string>& names) {
  std::map<uint64_t, std::string_view> entry;
  const std::map<uint64_t, Message>& inner = fields_of(message);
  while (!bytes.empty()) {
    const std::optional<uint64_t> key = take_varint(bytes);
    const auto payload = key ? take_payload(bytes, *key & 7) : std::nullopt;
    if (!payload || depth > kMaxDepth) return false;
    if ((*key & 7) != 2) continue;
    if (message == Message::kEntry) entry[*key >> 3] = *payload;
    const auto found = inner.find(*key >> 3);
    if (found != inner.end() && !collect(*payload, found->second, depth + 1, names)) return false;
  }
  if (entry.count(1) && entry[1] == "location") names.emplace(entry[2]);
  return true;
}

// The folder of blobs beside that of the snapshot which `home` lies in; empty if it lies in none.
fs::path blobs_of(fs::path home) {
  for (; home.has_relative_path(); home = home.parent_path())
    if (home.parent_path().filename() == "snapshots") return home.parent_path().parent_path() / "blobs";
  return "";
}

}  // namespace

std::set<std::string> external_data(const fs::path& model) {
  std::set<std::string> names;
  const std::string graph = read_file(model, kProtobuf);
  collect(graph, Message::kModel, 0, names);
  return names;
}

bool is_inside(const fs::path& folder, const std::string& name) {
  const fs::path path = name;
  const bool leaves = path.is_absolute() || std::find(path.begin(), path.end(), "..") != path.end();
  if (name.empty() || leaves || name.find('\0') != std::string::npos || name.find(kMemory) != std::string::npos)
    return false;
  std::error_code failed, also;
  const fs::path home = fs::weakly_canonical(folder, failed), target = fs::weakly_canonical(folder / path, also);
  if (failed || also) return false;
  const auto differ = std::mismatch(home.begin(), home.end(), target.begin(), target.end());
  return (differ.first == home.end() && differ.second != target.end()) || target.parent_path() == blobs_of(home);
}

void check_own(const fs::path& folder, const fs::path& file) {
  if (!is_inside(folder, file.lexically_relative(folder).string()))
    throw UserError(file.string() + ": a link that leads out of its folder; put the file itself in its place");
}

void check_inside(const fs::path& model) {
  for (const std::string& name : external_data(model))
    if (!is_inside(fs::absolute(model).parent_path(), name))
      throw UserError(model.string() + ": has weights in '" + name +
                      "', outside its folder; put the file itself beside it");
}

}  // namespace seqexport
