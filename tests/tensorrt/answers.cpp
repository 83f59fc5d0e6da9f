#include "answers.h"

#include <algorithm>
#include <cmath>

namespace {

Array zeros(const std::string& axes, const std::map<char, int64_t>& extents) {
  Array array = {'T', axes, {}, {}};
  int64_t count = 1;
  for (const char axis : axes) {
    array.shape.push_back(extents.at(axis));
    count *= extents.at(axis);
  }
  array.values.resize(size_t(count));
  return array;
}

Array zeros(const Array& like) { return {like.type, like.axes, like.shape, std::vector<double>(like.values.size())}; }

double silu(double x) { return x / (1 + std::exp(-x)); }

double softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

int64_t valid(Arrays& a, int64_t row, int64_t length) {
  return a.count("seq_lens") ? int64_t(a["seq_lens"].at({row})) : length;
}

}  // namespace

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
      const bool is_backwards = d * G / D >= G - int64_t(call.attribute("reverse_groups", 0));
      for (int64_t i = 0, tokens = valid(a, b, L); i < tokens; ++i) {
        const int64_t t = is_backwards ? tokens - 1 - i : i;
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

void ssd_scan(Arrays& a, const Case& call) {
  const int64_t B = a["x"].shape[0], L = a["x"].shape[1], H = a["x"].shape[2], P = a["x"].shape[3];
  const int64_t N = a["B"].shape[3], G = a["B"].shape[2];
  a["y"] = zeros(a["x"]);
  a["present"] = a["past"];
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t h = 0; h < H; ++h) {
      for (int64_t t = 0; t < valid(a, b, L); ++t) {
        double delta = a["dt"].at({b, t, h}) + (call.has("dt_bias") ? a["dt_bias"].at({h}) : 0);
        if (call.attribute("dt_softplus", 0) != 0) delta = softplus(delta);
        delta = std::max(delta, call.attribute("dt_min", 0));
        if (call.attribute("dt_max", 0) > 0) delta = std::min(delta, call.attribute("dt_max", 0));
        for (int64_t p = 0; p < P; ++p) {
          const double x = a["x"].at({b, t, h, p});
          double y = call.has("D") ? a["D"].at({h}) * x : 0;
          for (int64_t n = 0; n < N; ++n) {
            double& state = a["present"].at({b, h, p, n});
            state = std::exp(delta * a["A"].at({h})) * state + delta * a["B"].at({b, t, h * G / H, n}) * x;
            y += a["C"].at({b, t, h * G / H, n}) * state;
          }
          a["y"].at({b, t, h, p}) = call.has("z") ? y * silu(a["z"].at({b, t, h, p})) : y;
        }
      }
    }
  }
}

namespace {

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

}  // namespace

void causal_attention(Arrays& a, const Case& call) {
  const int64_t B = a["query"].shape[0], L = a["query"].shape[1], Hq = a["query"].shape[2], Hkv = a["key"].shape[2];
  const int64_t Dv = a["value"].shape[3];
  a["y"] = zeros("BLHV", {{'B', B}, {'L', L}, {'H', Hq}, {'V', Dv}});
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
    a[y] = zeros(axes, {{'B', B}, {'L', L}, {axes[2], N}});
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

namespace {

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

}  // namespace

void experts(Arrays& a, const Case& call) {
  a["y"] = zeros(a["x"]);
  const std::vector<int64_t>& shape = a["x"].shape;
  for (int64_t b = 0; b < shape[0]; ++b) {
    for (int64_t t = 0; t < shape[1]; ++t) {
      for (int64_t d = 0; d < shape[2]; ++d) a["y"].at({b, t, d}) = chosen_experts(a, call, b, t, d);
    }
  }
}

// Of a sigmoid with a bias where there is one, else of the softmax; weights are normalised and scaled.
void top_k_router(Arrays& a, const Case& call) {
  const int64_t B = a["logits"].shape[0], L = a["logits"].shape[1], E = a["logits"].shape[2];
  const int64_t k = int64_t(call.attribute("k", 1));
  a["chosen"] = zeros("BLk", {{'B', B}, {'L', L}, {'k', k}});
  a["weight"] = a["chosen"];
  a["chosen"].type = 'I', a["weight"].type = 'F';
  for (int64_t token = 0; token < B * L; ++token) {
    std::vector<double> scores, ranked;
    double total = 0;
    for (int64_t e = 0; e < E; ++e) {
      const double x = a["logits"].values[size_t(token * E + e)];
      scores.push_back(call.has("bias") ? 1 / (1 + std::exp(-x)) : std::exp(x));
      total += scores.back();
    }
    for (int64_t e = 0; e < E; ++e) {
      if (!call.has("bias")) scores[size_t(e)] /= total;
      ranked.push_back(scores[size_t(e)] + (call.has("bias") ? a["bias"].at({e}) : 0));
    }
    double sum = call.attribute("epsilon", 0);
    for (int64_t i = 0; i < k; ++i) {
      const auto best = std::max_element(ranked.begin(), ranked.end());
      const auto expert = size_t(best - ranked.begin());
      *best = -INFINITY;
      a["chosen"].values[size_t(token * k + i)] = double(expert);
      a["weight"].values[size_t(token * k + i)] = scores[expert];
      sum += scores[expert];
    }
    for (int64_t i = 0; i < k && call.attribute("normalised", 0) != 0; ++i) {
      a["weight"].values[size_t(token * k + i)] *= call.attribute("scale", 1) / sum;
    }
  }
}

void embedding(Arrays& a, const Case&) {
  const int64_t B = a["ids"].shape[0], L = a["ids"].shape[1], V = a["weight"].shape[0], D = a["weight"].shape[1];
  a["y"] = zeros("BLD", {{'B', B}, {'L', L}, {'D', D}});
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t t = 0; t < L; ++t) {
      const int64_t id = int64_t(a["ids"].at({b, t}));
      for (int64_t d = 0; d < D && id >= 0 && id < V; ++d) a["y"].at({b, t, d}) = a["weight"].at({id, d});
    }
  }
}

void last_token(Arrays& a, const Case&) {
  const int64_t B = a["x"].shape[0], L = a["x"].shape[1], D = a["x"].shape[2];
  a["y"] = zeros("B1D", {{'B', B}, {'1', 1}, {'D', D}});
  for (int64_t b = 0; b < B; ++b) {
    const int64_t last = std::min(std::max<int64_t>(int64_t(a["seq_lens"].at({b})), 1), L) - 1;
    for (int64_t d = 0; d < D; ++d) a["y"].at({b, 0, d}) = a["x"].at({b, last, d});
  }
}
