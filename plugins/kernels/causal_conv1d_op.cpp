#include "causal_conv1d.h"
#include "op.h"

#define FIELD(name) SEQEXPORT_FIELD(CausalConv1dParams, name)

namespace seqexport {
namespace {

void check_params(const CausalConv1dParams& p, Device) {
  if (p.y == p.x) throw Refusal("y must not be x: neighbouring tokens still read it");
}

}  // namespace

static_assert(SEQEXPORT_ACTIVATION_NONE == 0 && SEQEXPORT_ACTIVATION_SILU == 1, "the order of the choices below");

Op causal_conv1d_op() {
  enum { B, L, D, K };
  Op op = {"CausalConv1d", sizeof(CausalConv1dParams)};
  op.sizes = {{"B", FIELD(batch), {}, {1, kMaxGrid}},
              {"L", FIELD(length)},
              {"D", FIELD(channels)},
              {"K", FIELD(kernel_size), {1, 64}, {2, 8}}};
  op.inputs = {Tensor(FIELD(x), 'T', {B, L, D}).strided(FIELD(x_stride)),
               {FIELD(weight), 'T', {D, K}},
               Tensor(FIELD(bias), 'T', {D}).optional(),
               {FIELD(past), 'T', {B, D, {K, -1}}},
               Tensor(FIELD(seq_lens), 'I', {B}).optional()};
  op.outputs = {{FIELD(y), 'T', {B, L, D}}, {FIELD(present), 'T', {B, D, {K, -1}}}};
  op.attributes = {{FIELD(activation), {"none", "silu"}}};
  op.check_params = erased<&check_params>;
  return op;
}

}  // namespace seqexport
