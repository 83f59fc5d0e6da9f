#include "embedding.h"

#include "ops.h"

namespace seqexport::tensorrt {
namespace {

enum Size { B, L, V, D };
enum Input { kWeight, kIds };
enum Output { kY };

void check(const Sizes& sizes) { require_tokens(sizes[B], sizes[L]); }

cudaError_t launch(const Call& call) {
  EmbeddingParams p = {};
  p.dtype = call.dtype();
  p.rows = call.size(B) * call.size(L);
  p.vocab = call.size(V);
  p.channels = call.size(D);
  p.weight = call.input(kWeight);
  p.ids = call.input<int32_t>(kIds);
  p.y = call.output(kY);
  return seqexport::embedding(p, call.stream);
}

}  // namespace

const Op& embedding() {
  static const Op& op = *new Op{
      "Embedding",
      {{"B", 1, 65535}, {"L", 1, 1 << 30}, {"V", 1, 1 << 30}, {"D", 1, 1 << 30}},
      {{"weight", 'T', {V, D}}, {"ids", 'I', {B, L}}},
      {{"y", 'T', {B, L, D}}},
      {},
      check,
      0,
      launch,
  };
  return op;
}

}  // namespace seqexport::tensorrt
