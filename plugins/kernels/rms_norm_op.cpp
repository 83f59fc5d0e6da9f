#include "op.h"
#include "rms_norm.h"

#define FIELD(name) SEQEXPORT_FIELD(RmsNormParams, name)

namespace seqexport {

Op rms_norm_op() {
  enum { B, L, D };
  Op op = {"RmsNorm", sizeof(RmsNormParams)};
  op.sizes = {Size("B"), Size("L"), {"D", FIELD(channels)}};
  op.rows = FIELD(rows);
  op.inputs = {{FIELD(x), 'T', {B, L, D}},
               {FIELD(weight), 'T', {D}},
               Tensor(FIELD(residual), 'S', {B, L, D}).optional()};
  op.outputs = {{FIELD(y), 'T', {B, L, D}}, Tensor(FIELD(sum), 'S', {B, L, D}).optional()};
  op.attributes = {{FIELD(epsilon), 1e-6}, {FIELD(wide), 0, 0, 1}};
  return op;
}

}  // namespace seqexport
