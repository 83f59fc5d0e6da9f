#include "last_token.h"

#include "ops.h"

namespace seqexport::tensorrt {
namespace {

enum Size { B, L, D };
enum Input { kX, kSeqLens };
enum Output { kY };

void check(const Sizes&) {}

cudaError_t launch(const Call& call) {
  LastTokenParams p = {};
  p.dtype = call.dtype();
  p.batch = call.size(B);
  p.length = call.size(L);
  p.channels = call.size(D);
  p.x = call.input(kX);
  p.seq_lens = call.input<int32_t>(kSeqLens);
  p.y = call.output(kY);
  return seqexport::last_token(p, call.stream);
}

}  // namespace

const Op& last_token() {
  static const Op& op = *new Op{
      "LastToken",
      {{"B", 1, 65535}, {"L", 1, 1 << 30}, {"D", 1, 1 << 30}},
      {{"x", 'T', {B, L, D}}, {"seq_lens", 'I', {B}}},
      {{"y", 'T', {B, Axis::constant(1), D}}},
      {},
      check,
      0,
      launch,
  };
  return op;
}

}  // namespace seqexport::tensorrt
