#include "cases.h"

#include <algorithm>
#include <cmath>
#include <random>

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

Array zeros(const Array& like) { return {like.type, like.axes, like.shape, std::vector<double>(like.values.size())}; }

Array integers(const std::vector<double>& values) { return {'I', "B", {int64_t(values.size())}, values}; }

double silu(double x) { return x / (1 + std::exp(-x)); }

double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

int64_t valid(Arrays& a, int64_t row, int64_t length) {
  return a.count("seq_lens") ? int64_t(a["seq_lens"].at({row})) : length;
}

void causal_conv1d(Arrays& a, const Case& call) {
  const int64_t B = a["x"].shape[0], L = a["x"].shape[1], D = a["x"].shape[2], K = a["weight"].shape[1];
  a["y"] = zeros(a["x"]);
  a["present"] = a["past"];
  for (int64_t b = 0; b < B; ++b) {
    const int64_t n = valid(a, b, L);
    for (int64_t d = 0; d < D; ++d) {
      std::vector<double> xx;
      for (int64_t j = 0; j < K - 1; ++j) xx.push_back(a["past"].at({b, d, j}));
      for (int64_t t = 0; t < n; ++t) xx.push_back(a["x"].at({b, t, d}));
      for (int64_t t = 0; t < n; ++t) {
        double y = call.has("bias") ? a["bias"].at({d}) : 0;
        for (int64_t j = 0; j < K; ++j) y += a["weight"].at({d, j}) * xx[size_t(t + j)];
        a["y"].at({b, t, d}) = call.attributes.empty() ? y : silu(y);
      }
      for (int64_t j = 0; j < K - 1; ++j) a["present"].at({b, d, j}) = xx[size_t(n + j)];
    }
  }
}

void selective_scan(Arrays& a, const Case& call) {
  const int64_t B = a["x"].shape[0], L = a["x"].shape[1], D = a["x"].shape[2];
  const int64_t N = a["A"].shape[1], G = a["B"].shape[2];
  a["y"] = zeros(a["x"]);
  a["present"] = a["past"];
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t d = 0; d < D; ++d) {
      for (int64_t t = 0; t < valid(a, b, L); ++t) {
        const double x = a["x"].at({b, t, d});
        double delta = a["dt"].at({b, t, d}) + (call.has("dt_bias") ? a["dt_bias"].at({d}) : 0);
        if (call.attribute("dt_softplus", 0) != 0) delta = softplus(delta);
        double y = call.has("D") ? a["D"].at({d}) * x : 0;
        for (int64_t n = 0; n < N; ++n) {
          double& h = a["present"].at({b, d, n});
          h = std::exp(delta * a["A"].at({d, n})) * h + delta * a["B"].at({b, t, d * G / D, n}) * x;
          y += a["C"].at({b, t, d * G / D, n}) * h;
        }
        a["y"].at({b, t, d}) = call.has("z") ? y * silu(a["z"].at({b, t, d})) : y;
      }
    }
  }
}

// softmax over the keys that query t of row b and head h sees, times their values.
std::vector<double> attend(Arrays& a, const Case& call, int64_t b, int64_t t, int64_t h) {
  const int64_t group = a["query"].shape[2] / a["key"].shape[2], Dh = a["query"].shape[3], Dv = a["value"].shape[3];
  const double scale = call.attribute("scale", 0), window = call.attribute("window", 0);
  const double softcap = call.attribute("softcap", 0);
  const int64_t last = int64_t(a["past_lens"].at({b})) + t;
  const int64_t first = window > 0 ? std::max<int64_t>(0, last + 1 - int64_t(window)) : 0;
  std::vector<double> out(static_cast<size_t>(Dv));
  double sum = 0;
  for (int64_t s = first; s <= last; ++s) {
    double score = 0;
    for (int64_t i = 0; i < Dh; ++i) score += a["query"].at({b, t, h, i}) * a["present_key"].at({b, h / group, s, i});
    score *= scale > 0 ? scale : 1 / std::sqrt(double(Dh));
    const double weight = std::exp(softcap > 0 ? softcap * std::tanh(score / softcap) : score);
    sum += weight;
    for (int64_t i = 0; i < Dv; ++i) out[size_t(i)] += weight * a["present_value"].at({b, h / group, s, i});
  }
  for (double& value : out) value /= sum;
  return out;
}

void causal_attention(Arrays& a, const Case& call) {
  const int64_t B = a["query"].shape[0], L = a["query"].shape[1], Hq = a["query"].shape[2], Hkv = a["key"].shape[2];
  const int64_t Dv = a["value"].shape[3];
  a["y"] = uniform('T', "BLHV", {{'B', B}, {'L', L}, {'H', Hq}, {'V', Dv}}, 0, 0);
  a["present_key"] = a["past_key"], a["present_value"] = a["past_value"];
  for (int64_t b = 0; b < B; ++b) {
    const int64_t start = int64_t(a["past_lens"].at({b}));
    for (const std::string name : {"key", "value"}) {
      for (int64_t t = 0; t < valid(a, b, L); ++t) {
        for (int64_t h = 0; h < Hkv; ++h) {
          for (int64_t i = 0; i < a[name].shape[3]; ++i) {
            a["present_" + name].at({b, h, start + t, i}) = a[name].at({b, t, h, i});
          }
        }
      }
    }
    for (int64_t t = 0; t < valid(a, b, L); ++t) {
      for (int64_t h = 0; h < Hq; ++h) {
        const std::vector<double> row = attend(a, call, b, t, h);
        for (int64_t i = 0; i < Dv; ++i) a["y"].at({b, t, h, i}) = row[size_t(i)];
      }
    }
  }
}

void linear(Arrays& a, const Case& call) {
  const int64_t B = a["x"].shape[0], L = a["x"].shape[1], K = a["x"].shape[2];
  for (size_t i = 0; i < call.outputs.size(); ++i) {
    const std::string suffix = i == 0 ? "" : std::to_string(i), y = "y" + suffix;
    const int64_t N = a["weight" + suffix].shape[0];
    const char axes[] = {'B', 'L', "NOP"[i], '\0'};
    a[y] = uniform('T', axes, {{'B', B}, {'L', L}, {axes[2], N}}, 0, 0);
    for (int64_t b = 0; b < B; ++b) {
      for (int64_t t = 0; t < L; ++t) {
        for (int64_t n = 0; n < N; ++n) {
          double& sum = a[y].at({b, t, n});
          if (call.has("bias" + suffix)) sum = a["bias" + suffix].at({n});
          for (int64_t k = 0; k < K; ++k) sum += a["x"].at({b, t, k}) * a["weight" + suffix].at({n, k});
        }
      }
    }
  }
}

void rms_norm(Arrays& a, const Case& call) {
  const int64_t B = a["x"].shape[0], L = a["x"].shape[1], D = a["x"].shape[2];
  const int64_t width = D / int64_t(call.attribute("groups", 1));
  a["y"] = a["sum"] = zeros(a["x"]);
  if (call.attribute("wide", 0) != 0) a["sum"].type = 'F';
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t t = 0; t < L; ++t) {
      std::vector<double> squares(size_t(D / width));
      for (int64_t d = 0; d < D; ++d) {
        const double gated = a["x"].at({b, t, d}) * (call.has("z") ? silu(a["z"].at({b, t, d})) : 1);
        const double s = gated + (call.has("residual") ? a["residual"].at({b, t, d}) : 0);
        a["sum"].at({b, t, d}) = s;
        squares[size_t(d / width)] += s * s;
      }
      for (int64_t d = 0; d < D; ++d) {
        const double root = std::sqrt(squares[size_t(d / width)] / double(width) + call.attribute("epsilon", 1e-6));
        a["y"].at({b, t, d}) = a["sum"].at({b, t, d}) / root * a["weight"].at({d});
      }
    }
  }
}

void rotary_embedding(Arrays& a, const Case&) {
  const int64_t R = a["cos"].shape[2];
  for (const std::string name : {"query", "key"}) {
    Array& x = a[name];
    a[name + "_rotated"] = x;
    for (int64_t b = 0; b < x.shape[0]; ++b) {
      for (int64_t t = 0; t < x.shape[1]; ++t) {
        for (int64_t h = 0; h < x.shape[2]; ++h) {
          for (int64_t i = 0; i < R; ++i) {
            const double crossed = i < R / 2 ? -x.at({b, t, h, i + R / 2}) : x.at({b, t, h, i - R / 2});
            double& y = a[name + "_rotated"].at({b, t, h, i});
            y = y * a["cos"].at({b, t, i}) + crossed * a["sin"].at({b, t, i});
          }
        }
      }
    }
  }
}

double activated(double x, double which) {
  if (which == 0) return silu(x);
  return x > 0 ? x * x : 0;  // relu2
}

// The sum of the chosen experts of token t of row b, channel d.
double chosen_experts(Arrays& a, const Case& call, int64_t b, int64_t t, int64_t d) {
  const int64_t D = a["x"].shape[2], E = a["down"].shape[0], F = a["down"].shape[2];
  const bool gated = call.attribute("gated", 1) != 0;
  double sum = 0;
  for (int64_t i = 0; i < a["chosen"].shape[2]; ++i) {
    const int64_t e = int64_t(a["chosen"].at({b, t, i}));
    if (e < 0 || e >= E) continue;
    double y = call.has("down_bias") ? a["down_bias"].at({e, d}) : 0;
    for (int64_t f = 0; f < F; ++f) {
      const auto projected = [&](int64_t row) {
        double value = call.has("gate_up_bias") ? a["gate_up_bias"].at({e, row}) : 0;
        for (int64_t c = 0; c < D; ++c) value += a["gate_up"].at({e, row, c}) * a["x"].at({b, t, c});
        return value;
      };
      y += a["down"].at({e, d, f}) * activated(projected(f), gated ? 0 : 1) * (gated ? projected(F + f) : 1);
    }
    sum += a["weight"].at({b, t, i}) * y;
  }
  return sum;
}

void experts(Arrays& a, const Case& call) {
  a["y"] = zeros(a["x"]);
  const std::vector<int64_t>& shape = a["x"].shape;
  for (int64_t b = 0; b < shape[0]; ++b) {
    for (int64_t t = 0; t < shape[1]; ++t) {
      for (int64_t d = 0; d < shape[2]; ++d) a["y"].at({b, t, d}) = chosen_experts(a, call, b, t, d);
    }
  }
}

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
  c.attributes = {{"dt_softplus", 1}};
  c.arrays["D"] = uniform('F', "D", sizes);
  c.arrays["z"] = uniform('T', "BLD", sizes);
  c.arrays["dt_bias"] = uniform('F', "D", sizes, -2, -1);
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

void embedding(Arrays& a, const Case&) {
  const int64_t B = a["ids"].shape[0], L = a["ids"].shape[1], V = a["weight"].shape[0], D = a["weight"].shape[1];
  a["y"] = uniform('T', "BLD", {{'B', B}, {'L', L}, {'D', D}}, 0, 0);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t t = 0; t < L; ++t) {
      const int64_t id = int64_t(a["ids"].at({b, t}));
      for (int64_t d = 0; d < D && id >= 0 && id < V; ++d) a["y"].at({b, t, d}) = a["weight"].at({id, d});
    }
  }
}

void last_token(Arrays& a, const Case&) {
  const int64_t B = a["x"].shape[0], L = a["x"].shape[1], D = a["x"].shape[2];
  a["y"] = uniform('T', "B1D", {{'B', B}, {'1', 1}, {'D', D}}, 0, 0);
  for (int64_t b = 0; b < B; ++b) {
    const int64_t last = std::min(std::max<int64_t>(int64_t(a["seq_lens"].at({b})), 1), L) - 1;
    for (int64_t d = 0; d < D; ++d) a["y"].at({b, 0, d}) = a["x"].at({b, last, d});
  }
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
  for (const auto make : {conv_case, scan_case, attention_case, embedding_case,
                          last_token_case, linear_case, experts_case, norm_case, rotary_case}) {
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
    all.push_back(in_windows(attention_case("every input", true, L), {"query", "key", "value"}, {{"Hq", 4}}, L));
  }
  return all;
}
