#include "experts.h"

#include "op.h"

#define FIELD(name) SEQEXPORT_FIELD(ExpertsParams, name)

namespace seqexport {
namespace {

enum { B, L, D, k, E, U, F };

void check(const Sizes& sizes) {
  const int64_t up = sizes[U], hidden = sizes[F];
  if (up > 0 && hidden > 0 && up != hidden && up != 2 * hidden) {
    throw Refusal("U (rows of gate_up) must be F (hidden channels) = " + std::to_string(hidden) +
                  ", or 2 F where gated, got " + std::to_string(up));
  }
  if (sizes[B] * sizes[L] > 0 && sizes[k] > 0 && sizes[B] * sizes[L] > INT32_MAX / sizes[k]) {
    throw Refusal("B * L * k must be below 2^31, got " + std::to_string(sizes[B] * sizes[L] * sizes[k]));
  }
}

void check_params(const ExpertsParams& p, Device device) {
  const int64_t rows = int64_t(p.hidden) * (1 + p.gated);
  if (p.gate_up_channels != rows) {
    throw Refusal("input 'gate_up' must have U = " + std::to_string(rows) + " rows, which is " +
                  (p.gated ? "2 F with gated = 1" : "F with gated = 0") + ", got " +
                  std::to_string(p.gate_up_channels));
  }
  if (device == Device::kCuda && experts_token_bytes(p) > kExpertsWorkspace) {
    throw Refusal("k * F (hidden channels of a token's experts) must be at most " +
                  std::to_string(kExpertsWorkspace / sizeof(float)) + ", got " +
                  std::to_string(int64_t(p.choices) * p.hidden));
  }
}

}  // namespace

Op experts_op() {
  Op op = {"Experts", sizeof(ExpertsParams)};
  op.sizes = {Size("B"),
              Size("L"),
              {"D", FIELD(channels)},
              {"k", FIELD(choices), {}, {1, kExpertsMostChoices}},
              {"E", FIELD(experts), {}, {1, kExpertsMost}},
              {"U", FIELD(gate_up_channels)},
              {"F", FIELD(hidden)}};
  op.rows = FIELD(rows);
  op.inputs = {{FIELD(x), 'T', {B, L, D}},
               {FIELD(chosen), 'I', {B, L, k}},
               {FIELD(weight), 'F', {B, L, k}},
               {FIELD(gate_up), 'T', {E, U, D}},
               {FIELD(down), 'T', {E, D, F}},
               Tensor(FIELD(gate_up_bias), 'T', {E, U}).optional(),
               Tensor(FIELD(down_bias), 'T', {E, D}).optional()};
  op.outputs = {{FIELD(y), 'T', {B, L, D}}};
  op.attributes = {{FIELD(gated), 1, 0, 1},
                   {FIELD(activation), {"silu", "gelu", "gelu_tanh", "relu", "relu2"}}};
  op.workspace = {FIELD(workspace), FIELD(workspace_bytes), kExpertsWorkspace, SEQEXPORT_IF_CUDA(experts_workspace)};
  op.workspace.least = erased<&experts_token_bytes>;
  op.check = check;
  op.check_params = erased<&check_params>;
  return op;
}

}  // namespace seqexport
