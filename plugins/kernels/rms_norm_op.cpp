#include "op.h"
#include "rms_norm.h"

#define FIELD(name) SEQEXPORT_FIELD(RmsNormParams, name)

namespace seqexport {
namespace {

void check_params(const RmsNormParams& p, Device) {
  const std::string came = ", got " + std::to_string(p.groups);
  if (p.channels % p.groups != 0) {
    throw Refusal("groups must divide D (channels) = " + std::to_string(p.channels) + came);
  }
  if (int64_t(p.rows) * p.groups > kMaxSize) {
    throw Refusal("B * L (tokens) * groups must be at most " + std::to_string(kMaxSize) + came + " groups");
  }
}

}  // namespace

Op rms_norm_op() {
  enum { B, L, D };
  Op op = {"RmsNorm", sizeof(RmsNormParams)};
  op.sizes = {Size("B"), Size("L"), {"D", FIELD(channels)}};
  op.rows = FIELD(rows);
  op.inputs = {{FIELD(x), 'T', {B, L, D}},
               {FIELD(weight), 'T', {D}},
               Tensor(FIELD(residual), 'S', {B, L, D}).optional(),
               Tensor(FIELD(z), 'T', {B, L, D}).optional().strided(FIELD(z_stride))};
  op.outputs = {{FIELD(y), 'T', {B, L, D}}, Tensor(FIELD(sum), 'S', {B, L, D}).optional()};
  op.attributes = {{FIELD(epsilon), 1e-6}, {FIELD(groups), 1, 1, kMaxSize}, {FIELD(norm_before_gate), 0, 0, 1},
                   {FIELD(wide), 0, 0, 1}};
  op.check_params = erased<&check_params>;
  return op;
}

}  // namespace seqexport
