#include <algorithm>
#include <cmath>

#include "cpu_cases.h"
#include "experts.h"

namespace {

struct Sizes {
  int M, D, k, E, F;
};

double activated(int activation, double x) {
  switch (activation) {
    case SEQEXPORT_SILU: return x / (1 + std::exp(-x));
    case SEQEXPORT_GELU: return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
    case SEQEXPORT_GELU_TANH: return x / 2 * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case SEQEXPORT_RELU: return std::max(x, 0.0);
    default: return std::max(x, 0.0) * std::max(x, 0.0);
  }
}

// Row `row` of a weight, times x, plus its bias.
double projected(const Tensor& weight, const Tensor& bias, size_t row, const Doubles& x) {
  double sum = bias[row];
  for (size_t i = 0; i < x.size(); ++i) sum += weight[row * x.size() + i] * x[i];
  return sum;
}

void experts_case(const Kernels& kernels, const Pool& pool, int dtype, const Sizes& s, bool gated, int activation) {
  const size_t U = size_t(s.F) * (gated ? 2 : 1), pairs = size_t(s.M) * s.k;
  Tensor x(dtype, size_t(s.M) * s.D), gate_up(dtype, s.E * U * s.D), down(dtype, size_t(s.E) * s.D * s.F);
  Tensor gate_up_bias(dtype, s.E * U), down_bias(dtype, size_t(s.E) * s.D), y(dtype, x.size());
  Tensor weight(SEQEXPORT_FLOAT32, pairs);
  x.normal(), gate_up.normal(1 / std::sqrt(s.D)), down.normal(1 / std::sqrt(s.F)), weight.normal();
  gate_up_bias.normal(), down_bias.normal();
  std::vector<int32_t> chosen(pairs);
  for (size_t i = 0; i < pairs; ++i) chosen[i] = int32_t(i * 7 % (s.E + 2)) - 1;  // some of no expert

  Doubles truth(y.size());
  for (size_t i = 0; i < pairs; ++i) {
    if (chosen[i] < 0 || chosen[i] >= s.E) continue;
    const size_t token = i / s.k, expert = chosen[i];
    Doubles row(s.D), h(s.F);
    for (int d = 0; d < s.D; ++d) row[d] = x[token * s.D + d];
    for (int f = 0; f < s.F; ++f) {
      const size_t at = expert * U + f;
      h[f] = activated(activation, projected(gate_up, gate_up_bias, at, row));
      if (gated) h[f] *= projected(gate_up, gate_up_bias, at + s.F, row);
    }
    for (int d = 0; d < s.D; ++d) {
      truth[token * s.D + d] += weight[i] * projected(down, down_bias, expert * s.D + d, h);
    }
  }

  ExpertsParams p{};
  p.dtype = dtype, p.rows = s.M, p.channels = s.D, p.choices = s.k, p.experts = s.E;
  p.gate_up_channels = int(U), p.hidden = s.F, p.gated = gated, p.activation = activation;
  p.x = x.data(), p.chosen = chosen.data(), p.weight = static_cast<const float*>(weight.data());
  p.gate_up = gate_up.data(), p.down = down.data(), p.y = y.data();
  p.gate_up_bias = gate_up_bias.data(), p.down_bias = down_bias.data();
  kernels.experts(p, pool);
  expect(std::string(kernels.instruction_set) + " experts dtype " + std::to_string(dtype) + " M " +
             std::to_string(s.M) + " D " + std::to_string(s.D) + " F " + std::to_string(s.F) + " activation " +
             std::to_string(activation),
         y, truth, bound_of(dtype));
}

}  // namespace

void run_experts_cases(const Kernels& k, const Pool& pool, int dtype) {
  for (int M : {1, 5, 130}) {
    experts_case(k, pool, dtype, {M, 1, 1, 1, 1}, true, SEQEXPORT_SILU);
    experts_case(k, pool, dtype, {M, 33, 3, 5, 50}, true, SEQEXPORT_SILU);
    experts_case(k, pool, dtype, {M, 100, 2, 3, 17}, false, SEQEXPORT_RELU2);
  }
  for (int activation = SEQEXPORT_SILU; activation <= SEQEXPORT_RELU2; ++activation) {
    experts_case(k, pool, dtype, {7, 40, 2, 6, 24}, activation % 2 == 0, activation);
  }
  experts_case(k, pool, dtype, {1100, 8, 2, 4, 8}, true, SEQEXPORT_SILU);  // more than at once
}
