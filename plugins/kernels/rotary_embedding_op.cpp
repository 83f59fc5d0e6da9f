#include "op.h"
#include "rotary_embedding.h"

#define FIELD(name) SEQEXPORT_FIELD(RotaryEmbeddingParams, name)

namespace seqexport {
namespace {

enum { B, L, Hq, Hkv, Dh, R };

void check(const Sizes& sizes) {
  if (sizes[R] >= 0 && (sizes[R] % 2 != 0 || (sizes[Dh] >= 0 && sizes[R] > sizes[Dh]))) {
    throw Refusal("R (rotated features) must be even and at most Dh = " + std::to_string(sizes[Dh]) + ", got " +
                  std::to_string(sizes[R]));
  }
}

}  // namespace

Op rotary_embedding_op() {
  Op op = {"RotaryQueryKey", sizeof(RotaryEmbeddingParams)};
  op.sizes = {Size("B"),
              Size("L"),
              {"Hq", FIELD(query_heads), {1, kMaxGrid}},
              {"Hkv", FIELD(kv_heads), {1, kMaxGrid}},
              {"Dh", FIELD(head_dim), {2, kMaxGrid}},
              {"R", FIELD(rotary_dim), {2, kMaxGrid}}};
  op.rows = FIELD(rows);
  op.inputs = {{FIELD(query), 'T', {B, L, Hq, Dh}},
               {FIELD(key), 'T', {B, L, Hkv, Dh}},
               {FIELD(cos), 'T', {B, L, R}},
               {FIELD(sin), 'T', {B, L, R}}};
  op.outputs = {{FIELD(query_rotated), 'T', {B, L, Hq, Dh}}, {FIELD(key_rotated), 'T', {B, L, Hkv, Dh}}};
  op.check = check;
  return op;
}

}  // namespace seqexport
