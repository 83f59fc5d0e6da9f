#include "cases.h"

#include <algorithm>
#include <random>

#include "answers.h"

namespace {

using Extents = std::map<char, int64_t>;
using Axes = std::vector<std::pair<std::string, std::string>>;  // of tensors

// Uniform values between two bounds.
Array uniform(char type, const std::string& axes, const Extents& extents, double low = -1, double high = 1) {
  static std::mt19937 engine(0);
  Array array = {type, axes, {}, {}};
  int64_t count = 1;
  for (const char axis : axes) {
    array.shape.push_back(extents.at(axis));
    count *= extents.at(axis);
  }
  for (int64_t i = 0; i < count; ++i) {
    array.values.push_back(std::uniform_real_distribution<double>(low, high)(engine));
  }
  return array;
}

Array integers(const std::vector<double>& values) { return {'I', "B", {int64_t(values.size())}, values}; }

Array ragged(int64_t length) { return integers({double(length), double((length + 1) / 2)}); }

Case conv_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'D', 24}, {'K', 4}, {'k', 3}};
  Case c = {"CausalConv1d", label, {}, {"x", "weight", "past"}, {"y", "present"}, {{"present", "past"}}, {},
            causal_conv1d};
  for (const auto& [name, axes] : Axes{{"x", "BLD"}, {"weight", "DK"}, {"past", "BDk"}}) {
    c.arrays[name] = uniform('T', axes, sizes);
  }
  if (!all) return c;
  c.inputs = {"x", "weight", "bias", "past", "seq_lens"};
  c.attributes = {{"activation", "silu"}};
  c.arrays["bias"] = uniform('T', "D", sizes);
  c.arrays["seq_lens"] = ragged(L);
  return c;
}

Case scan_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'D', 24}, {'N', 16}, {'G', all ? 2 : 1}};
  Case c = {"SelectiveScan", label, {}, {"x", "dt", "A", "B", "C", "past"}, {"y", "present"}, {{"present", "past"}},
            {}, selective_scan};
  for (const auto& [name, axes] : Axes{{"x", "BLD"}, {"B", "BLGN"}, {"C", "BLGN"}}) {
    c.arrays[name] = uniform('T', axes, sizes);
  }
  c.arrays["dt"] = uniform('T', "BLD", sizes, 0.01, 0.2);
  c.arrays["A"] = uniform('F', "DN", sizes, -4, -0.1);
  c.arrays["past"] = uniform('F', "BDN", sizes);
  if (!all) return c;
  c.inputs = {"x", "dt", "A", "B", "C", "D", "z", "dt_bias", "past", "seq_lens"};
  c.attributes = {{"dt_softplus", 1}, {"reverse_groups", 1}};
  c.arrays["D"] = uniform('F', "D", sizes);
  c.arrays["z"] = uniform('T', "BLD", sizes);
  c.arrays["dt_bias"] = uniform('F', "D", sizes, -2, -1);
  c.arrays["seq_lens"] = ragged(L);
  return c;
}

Case ssd_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'H', 4}, {'P', 32}, {'N', 16}, {'G', all ? 2 : 1}};
  Case c = {"SsdScan", label, {}, {"x", "dt", "A", "B", "C", "past"}, {"y", "present"}, {{"present", "past"}},
            {}, ssd_scan};
  for (const auto& [name, axes] : Axes{{"x", "BLHP"}, {"B", "BLGN"}, {"C", "BLGN"}}) {
    c.arrays[name] = uniform('T', axes, sizes);
  }
  c.arrays["dt"] = uniform('T', "BLH", sizes, 0.01, 0.2);
  c.arrays["A"] = uniform('F', "H", sizes, -4, -0.1);
  c.arrays["past"] = uniform('F', "BHPN", sizes);
  if (!all) return c;
  c.inputs = {"x", "dt", "A", "B", "C", "D", "z", "dt_bias", "past", "seq_lens"};
  c.attributes = {{"dt_softplus", 1}, {"dt_min", 0.15f}, {"dt_max", 0.25f}};
  c.arrays["D"] = uniform('F', "H", sizes);
  c.arrays["z"] = uniform('T', "BLHP", sizes);
  c.arrays["dt_bias"] = uniform('F', "H", sizes, -2, -1);
  c.arrays["seq_lens"] = ragged(L);
  return c;
}

Case attention_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'Q', 4}, {'H', 2}, {'E', 32}, {'V', 64}, {'S', 400}};
  Case c = {"CausalAttention",
            label,
            {},
            {"query", "key", "value", "past_key", "past_value", "past_lens"},
            {"y", "present_key", "present_value"},
            {{"present_key", "past_key"}, {"present_value", "past_value"}},
            {},
            causal_attention};
  for (const auto& [name, axes] : Axes{{"query", "BLQE"}, {"key", "BLHE"}, {"value", "BLHV"}, {"past_key", "BHSE"},
                                       {"past_value", "BHSV"}}) {
    c.arrays[name] = uniform('T', axes, sizes);
  }
  c.arrays["past_lens"] = integers({300, 0});
  if (!all) return c;
  c.inputs.push_back("seq_lens");
  c.attributes = {{"scale", 0.25f}, {"window", 70}, {"softcap", 5.0f}};
  c.arrays["seq_lens"] = ragged(L);
  return c;
}

// An id outside the table where `all` is true.
Case embedding_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'V', 9}, {'D', 40}};
  Case c = {"Embedding", label, {}, {"weight", "ids"}, {"y"}, {}, {}, embedding};
  c.arrays["weight"] = uniform('T', "VD", sizes);
  c.arrays["ids"] = {'I', "BL", {2, L}, {}};
  for (int64_t i = 0; i < 2 * L; ++i) c.arrays["ids"].values.push_back(double(all && i == L ? -1 : i % 9));
  return c;
}

Case last_token_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'D', all ? 40 : 33}};
  Case c = {"LastToken", label, {}, {"x", "seq_lens"}, {"y"}, {}, {}, last_token};
  c.arrays["x"] = uniform('T', "BLD", sizes);
  c.arrays["seq_lens"] = ragged(L);
  return c;
}

Case linear_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'K', 40}, {'N', 24}, {'O', 16}, {'P', 5}};
  Case c = {"Linear", label, {}, {"x", "weight"}, {"y"}, {}, {}, linear};
  c.arrays["x"] = uniform('T', "BLK", sizes);
  c.arrays["weight"] = uniform('T', "NK", sizes);
  if (!all) return c;
  c.inputs = {"x", "weight", "bias", "weight1", "bias1", "weight2", "bias2"};
  c.outputs = {"y", "y1", "y2"};
  for (const auto& [name, axes] : Axes{{"bias", "N"}, {"weight1", "OK"}, {"bias1", "O"}, {"weight2", "PK"},
                                       {"bias2", "P"}}) {
    c.arrays[name] = uniform('T', axes, sizes);
  }
  return c;
}

// Gated, and a choice outside the experts, where `all` is true; else relu2 without a gate.
Case experts_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'D', 16}, {'k', 2}, {'E', 5}, {'F', 8}, {'U', all ? 16 : 8}};
  Case c = {"Experts", label, {}, {"x", "chosen", "weight", "gate_up", "down"}, {"y"}, {}, {}, experts};
  for (const auto& [name, axes] : Axes{{"x", "BLD"}, {"gate_up", "EUD"}, {"down", "EDF"}}) {
    c.arrays[name] = uniform('T', axes, sizes);
  }
  c.arrays["weight"] = uniform('F', "BLk", sizes, 0, 1);
  c.arrays["chosen"] = {'I', "BLk", {2, L, 2}, {}};
  for (int64_t i = 0; i < 4 * L; ++i) c.arrays["chosen"].values.push_back(double(all && i == 1 ? 5 : i * 3 % 5));
  if (!all) {
    c.attributes = {{"gated", 0}, {"activation", "relu2"}};
    return c;
  }
  c.inputs.insert(c.inputs.end(), {"gate_up_bias", "down_bias"});
  c.arrays["gate_up_bias"] = uniform('T', "EU", sizes);
  c.arrays["down_bias"] = uniform('T', "ED", sizes);
  return c;
}

// Logits on a grid, so that no rounding chooses.
Case router_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'E', 12}};
  Case c = {"TopKRouter", label, {{"k", 3}}, {"logits"}, {"chosen", "weight"}, {}, {}, top_k_router};
  c.arrays["logits"] = uniform('T', "BLE", sizes);
  std::vector<double>& logits = c.arrays["logits"].values;
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = double(i * 7 % 12) / 4 - 1;
  if (!all) return c;
  c.inputs = {"logits", "bias"};
  c.arrays["bias"] = uniform('F', "E", sizes);
  for (size_t e = 0; e < 12; ++e) c.arrays["bias"].values[e] = double(e * 5 % 7) / 64;
  c.attributes = {{"k", 4}, {"score", "sigmoid"}, {"normalised", 1}, {"epsilon", 0.25f}, {"scale", 2.5f}};
  return c;
}

Case norm_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'D', 72}};
  Case c = {"RmsNorm", label, {}, {"x", "weight"}, {"y", "sum"}, {}, {}, rms_norm};
  c.arrays["x"] = uniform('T', "BLD", sizes);
  c.arrays["weight"] = uniform('T', "D", sizes);
  if (!all) return c;
  c.inputs.insert(c.inputs.end(), {"residual", "z"});
  c.kept = {{"sum", "residual"}};
  c.attributes = {{"epsilon", 0.01f}, {"groups", 3}, {"wide", 1}};
  c.arrays["z"] = uniform('T', "BLD", sizes);
  c.arrays["residual"] = uniform('F', "BLD", sizes, -3, 3);
  return c;
}

// Without the sum, which nobody reads.
Case norm_alone_case(const std::string& label, bool all, int64_t L) {
  Case c = norm_case(label + ", no sum", all, L);
  c.outputs = {"y"};
  c.kept = {};
  c.attributes.emplace_back("outputs", "y");
  return c;
}

// A call whose inputs of these names are windows of wider tensors, at 16 bytes where L is more than 1.
Case in_windows(Case c, const std::vector<std::string>& names, const std::vector<std::pair<std::string, int32_t>>& sizes,
                int64_t L) {
  const int64_t first = L > 1 ? 16 : 3;
  c.label += ", windows";
  for (const std::string& name : names) {
    const std::vector<int64_t>& shape = c.arrays[name].shape;
    const int64_t count = shape[2] * (shape.size() > 3 ? shape[3] : 1);
    c.windows[name] = {first, first + count + first};
    c.attributes.emplace_back(name + "_at", int32_t(first));
  }
  for (const auto& [name, size] : sizes) c.attributes.emplace_back(name, size);
  return c;
}

// Every input is needed; fewer features are turned where `all` is false.
Case rotary_case(const std::string& label, bool all, int64_t L) {
  const Extents sizes = {{'B', 2}, {'L', L}, {'Q', 4}, {'H', 2}, {'E', 48}, {'R', all ? 48 : 10}};
  Case c = {"RotaryQueryKey",
            label,
            {},
            {"query", "key", "cos", "sin"},
            {"query_rotated", "key_rotated"},
            {{"query_rotated", "query"}, {"key_rotated", "key"}},
            {},
            rotary_embedding};
  for (const auto& [name, axes] : Axes{{"query", "BLQE"}, {"key", "BLHE"}, {"cos", "BLR"}, {"sin", "BLR"}}) {
    c.arrays[name] = uniform('T', axes, sizes);
  }
  return c;
}

}  // namespace

double& Array::at(std::initializer_list<int64_t> index) {
  int64_t offset = 0;
  size_t axis = 0;
  for (const int64_t i : index) offset = offset * shape[axis++] + i;
  return values[size_t(offset)];
}

double Case::attribute(const std::string& name, double fallback) const {
  for (const auto& [key, value] : attributes) {
    if (key != name) continue;
    return value.index() == 0 ? std::get<int32_t>(value) : std::get<float>(value);
  }
  return fallback;
}

Array widened(const Array& input, int64_t first, int64_t width) {
  const int64_t B = input.shape[0], L = input.shape[1], count = int64_t(input.values.size()) / (B * L);
  Array wide = {input.type, "BLW", {B, L, width}, std::vector<double>(size_t(B * L * width), 1000)};
  for (int64_t token = 0; token < B * L; ++token) {
    std::copy_n(input.values.begin() + token * count, count, wide.values.begin() + token * width + first);
  }
  return wide;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto make : {conv_case, scan_case, ssd_case, attention_case, embedding_case, last_token_case, linear_case,
                          experts_case, norm_case, rotary_case, router_case}) {
    all.push_back(make("every input, prefill", true, 63));
    all.push_back(make("every input, decode", true, 1));
    all.push_back(make("needed inputs, prefill", false, 63));
    all.push_back(make("needed inputs, decode", false, 1));
  }
  for (const int64_t L : {63, 1}) {
    all.push_back(norm_alone_case("every input", true, L));
    all.push_back(in_windows(norm_case("every input", true, L), {"z"}, {}, L));
    all.push_back(in_windows(conv_case("every input", true, L), {"x"}, {{"D", 24}}, L));
    all.push_back(in_windows(scan_case("every input", true, L), {"x", "dt", "B", "C", "z"}, {{"G", 2}}, L));
    all.push_back(in_windows(ssd_case("every input", true, L), {"x", "dt", "B", "C", "z"}, {{"G", 2}}, L));
    all.push_back(in_windows(attention_case("every input", true, L), {"query", "key", "value"}, {{"Hq", 4}}, L));
  }
  return all;
}
