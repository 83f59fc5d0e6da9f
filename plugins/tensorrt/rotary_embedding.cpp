#include "rotary_embedding.h"

#include "ops.h"

namespace seqexport::tensorrt {
namespace {

enum Size { B, L, Hq, Hkv, Dh, R };
enum Input { kQuery, kKey, kCos, kSin };
enum Output { kQueryRotated, kKeyRotated };

void check(const Sizes& sizes) {
  require_tokens(sizes[B], sizes[L]);
  if (sizes[R] >= 0 && (sizes[R] % 2 != 0 || (sizes[Dh] >= 0 && sizes[R] > sizes[Dh]))) {
    throw Refusal("R (rotated features) must be even and at most Dh = " + std::to_string(sizes[Dh]) + ", got " +
                  std::to_string(sizes[R]));
  }
}

cudaError_t launch(const Call& call) {
  RotaryEmbeddingParams p = {};
  p.dtype = call.dtype();
  p.rows = call.size(B) * call.size(L);
  p.query_heads = call.size(Hq);
  p.kv_heads = call.size(Hkv);
  p.head_dim = call.size(Dh);
  p.rotary_dim = call.size(R);
  p.query = call.input(kQuery);
  p.key = call.input(kKey);
  p.cos = call.input(kCos);
  p.sin = call.input(kSin);
  p.query_rotated = call.output(kQueryRotated);
  p.key_rotated = call.output(kKeyRotated);
  return seqexport::rotary_embedding(p, call.stream);
}

}  // namespace

const Op& rotary_embedding() {
  static const Op& op = *new Op{
      "RotaryQueryKey",
      {{"B", 1, 65535}, {"L", 1, 1 << 30}, {"Hq", 1, 65535}, {"Hkv", 1, 65535}, {"Dh", 2, 65535}, {"R", 2, 65535}},
      {{"query", 'T', {B, L, Hq, Dh}},
       {"key", 'T', {B, L, Hkv, Dh}},
       {"cos", 'T', {B, L, R}},
       {"sin", 'T', {B, L, R}}},
      {{"query_rotated", 'T', {B, L, Hq, Dh}}, {"key_rotated", 'T', {B, L, Hkv, Dh}}},
      {},
      check,
      0,
      launch,
  };
  return op;
}

}  // namespace seqexport::tensorrt
