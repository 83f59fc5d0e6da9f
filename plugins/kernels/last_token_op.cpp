#include "last_token.h"
#include "op.h"

#define FIELD(name) SEQEXPORT_FIELD(LastTokenParams, name)

namespace seqexport {

Op last_token_op() {
  enum { B, L, D };
  Op op = {"LastToken", sizeof(LastTokenParams)};
  op.sizes = {{"B", FIELD(batch)}, {"L", FIELD(length)}, {"D", FIELD(channels)}};
  op.inputs = {{FIELD(x), 'T', {B, L, D}}, {FIELD(seq_lens), 'I', {B}}};
  op.outputs = {{FIELD(y), 'T', {B, Axis::constant(1), D}}};
  return op;
}

}  // namespace seqexport
