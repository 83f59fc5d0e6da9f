#include "session_file.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "backend.h"
#include "error.h"
#include "external_data.h"
#include "files.h"
#include "json_numbers.h"
#include "safetensors.h"

namespace seqexport {
namespace {

using nlohmann::json;

constexpr char kFormat[] = "seqexport session", kFormatVersion[] = "1", kDigest[] = "sha256";
constexpr size_t kDigestBytes = 32;

template <class T>
std::string_view bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

template <class T>
std::vector<T> values_of(std::string_view bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::string digest_of(std::string_view bytes) {
  const std::string hex = sha256_of(bytes.data(), bytes.size());
  std::string digest;
  for (size_t i = 0; i < hex.size(); i += 2) digest += char(std::stoi(hex.substr(i, 2), nullptr, 16));
  return digest;
}

std::string type_of(const std::string& dtype) {
  return dtype == "float32" ? "F32" : dtype == "float16" ? "F16" : "BF16";
}

std::vector<int64_t> shape_of(const State& state, size_t batch, size_t rows) {
  std::vector<int64_t> shape;
  for (const Axis& axis : state.shape)
    shape.push_back(axis.fixed() ? axis.size : int64_t(axis.name == "batch" ? batch : rows));
  return shape;
}

// The tensors of a file, without their bytes: those of a word first, so that each is aligned, and the checksum last.
std::vector<NamedTensor> expected(const Bundle& bundle, const Snapshot& snapshot) {
  const auto batch = int64_t(snapshot.batch());
  std::vector<NamedTensor> all = {{"generators", {"U64", {batch}, {}}},
                                  {"recent", {"I64", {batch, int64_t(kRecent)}, {}}},
                                  {"lengths", {"I32", {batch}, {}}},
                                  {"logits", {"F32", {batch, bundle.language_model->vocab_size}, {}}}};
  for (const State& state : bundle.states)
    all.push_back({state.past, {type_of(state.dtype), shape_of(state, snapshot.batch(), snapshot.position()), {}}});
  std::stable_partition(all.begin(), all.end(), [](const NamedTensor& each) {
    return each.tensor.dtype != "F16" && each.tensor.dtype != "BF16";
  });
  all.push_back({kDigest, {"U8", {int64_t(kDigestBytes)}, {}}});
  return all;
}

json json_of(const Sampling& sampling) {
  return {{"temperature", sampling.temperature}, {"top_k", sampling.top_k}, {"top_p", sampling.top_p},
          {"seed", sampling.seed}};
}

Sampling sampling_from(const json& text) {
  const Sampling sampling{text.at("temperature").get<double>(), whole<int64_t>(text.at("top_k")),
                          text.at("top_p").get<double>(), whole<uint64_t>(text.at("seed"))};
  try {
    check(sampling);
  } catch (const UserError& error) {
    throw std::invalid_argument(error.what());
  }
  return sampling;
}

const std::string& weights_of(const Bundle& bundle) {
  if (bundle.weights.empty())
    throw UserError(bundle.folder.string() +
                    ": does not say which weights it has, as exports now do; export the model again");
  return bundle.weights;
}

const std::string& told(const std::map<std::string, std::string>& metadata, const char* name) {
  const auto found = metadata.find(name);
  if (found == metadata.end()) throw std::invalid_argument(std::string("it does not say its ") + name);
  return found->second;
}

void check_format(const std::string& file, const std::map<std::string, std::string>& metadata) {
  const auto format = metadata.find("format"), version = metadata.find("format_version");
  if (format == metadata.end() || format->second != kFormat)
    throw UserError(file + ": not a session; expected a file that a session was saved to");
  if (version == metadata.end() || version->second != kFormatVersion)
    throw UserError(file + ": format version " + (version == metadata.end() ? "unknown" : version->second) +
                    ", this seqexport reads " + kFormatVersion + "; upgrade seqexport");
}

void check_model(const std::string& file, const std::map<std::string, std::string>& metadata, const Bundle& bundle) {
  const std::string folder = bundle.folder.string(), &dtype = told(metadata, "dtype"), &theirs = told(metadata, "weights");
  if (dtype != bundle.dtype)
    throw UserError(file + ": saved in " + dtype + ", and " + folder + " is " + bundle.dtype + "; open a bundle in " +
                    dtype);
  const std::string& ours = weights_of(bundle);
  if (theirs != ours)
    throw UserError(file + ": saved from another model than " + folder + " (weights " + theirs.substr(0, 12) +
                    "..., expected " + ours.substr(0, 12) + "...); open a bundle of the model that it was saved from");
}

void check_tensors(const Safetensors& held, const std::vector<NamedTensor>& wanted) {
  if (held.tensors.size() != wanted.size()) throw std::invalid_argument("it has not the tensors of this model");
  for (const auto& [name, tensor] : wanted) {
    const auto found = held.tensors.find(name);
    if (found == held.tensors.end() || found->second.dtype != tensor.dtype || found->second.shape != tensor.shape)
      throw std::invalid_argument("tensor '" + name + "' is missing or of another shape");
  }
}

Snapshot snapshot_from(const Safetensors& held, const Bundle& bundle) {
  const auto lengths = held.tensors.find("lengths");
  if (lengths == held.tensors.end() || lengths->second.dtype != "I32") throw std::invalid_argument("it has no lengths");
  Snapshot snapshot;
  snapshot.lengths = values_of<int32_t>(lengths->second.bytes);
  if (snapshot.lengths.empty() || *std::min_element(snapshot.lengths.begin(), snapshot.lengths.end()) < 0)
    throw std::invalid_argument("its lengths are below 0 or none");
  check_tensors(held, expected(bundle, snapshot));
  for (const State& state : bundle.states) snapshot.states.emplace_back(held.tensors.at(state.past).bytes);
  snapshot.logits = values_of<float>(held.tensors.at("logits").bytes);
  snapshot.recent = values_of<int64_t>(held.tensors.at("recent").bytes);
  for (const uint64_t state : values_of<uint64_t>(held.tensors.at("generators").bytes))
    snapshot.generators.emplace_back(state);
  snapshot.sampling = sampling_from(json::parse(told(held.metadata, "sampling")));
  return snapshot;
}

// What its header says that a file has: of a larger one nothing is read.
uintmax_t bytes_of_header(const std::filesystem::path& file) {
  return listed_bytes(read_beginning(file, header_bytes(read_beginning(file, sizeof(uint64_t)))));
}

}  // namespace

void write_session(const std::filesystem::path& file, const Bundle& bundle, const Snapshot& snapshot) {
  std::vector<uint64_t> generators;
  for (const Generator& generator : snapshot.generators) generators.push_back(generator.state());
  std::map<std::string, std::string_view> bytes = {{"generators", bytes_of(generators)},
                                                   {"recent", bytes_of(snapshot.recent)},
                                                   {"lengths", bytes_of(snapshot.lengths)},
                                                   {"logits", bytes_of(snapshot.logits)}};
  for (size_t i = 0; i < bundle.states.size(); ++i) bytes[bundle.states[i].past] = snapshot.states[i];
  const std::string no_digest(kDigestBytes, '\0');
  bytes[kDigest] = no_digest;
  std::vector<NamedTensor> tensors = expected(bundle, snapshot);
  for (NamedTensor& each : tensors) each.tensor.bytes = bytes.at(each.name);
  std::string content = format_safetensors({{"format", kFormat},
                                            {"format_version", kFormatVersion},
                                            {"seqexport", SEQEXPORT_VERSION},
                                            {"weights", weights_of(bundle)},
                                            {"dtype", bundle.dtype},
                                            {"sampling", json_of(snapshot.sampling).dump()}},
                                           tensors);
  content.resize(content.size() - kDigestBytes);
  content += digest_of(content);
  PendingFile(file, content.data(), content.size()).commit();
}

Snapshot read_session(const std::filesystem::path& file, const Bundle& bundle) {
  check_own(std::filesystem::absolute(file).parent_path(), std::filesystem::absolute(file));
  const auto damaged = [&](const std::string& why) {
    return UserError(file.string() + ": damaged or cut short (" + why + "); take another copy of it");
  };
  try {
    const std::string content = read_file(file, bytes_of_header(file));
    const Safetensors held = parse_safetensors(content);
    check_format(file.string(), held.metadata);
    const size_t end = std::max(content.size(), kDigestBytes) - kDigestBytes;
    const std::string_view body = std::string_view(content).substr(0, end);
    if (digest_of(body) != content.substr(body.size())) throw damaged("its checksum is another");
    check_model(file.string(), held.metadata, bundle);
    return snapshot_from(held, bundle);
  } catch (const json::exception&) {  // whose words may hold any bytes
    throw damaged("its header is not that of a session");
  } catch (const std::logic_error& error) {  // what has no place in a session, or is missing
    throw damaged(error.what());
  }
}

}  // namespace seqexport
