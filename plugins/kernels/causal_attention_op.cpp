#include "causal_attention.h"

#include "op.h"

#define FIELD(name) SEQEXPORT_FIELD(CausalAttentionParams, name)

namespace seqexport {
namespace {

enum { B, L, Hq, Hkv, Dh, Dv, S };

void check(const Sizes& sizes) {
  if (sizes[Hq] < 0 || sizes[Hkv] < 0) return;
  if (sizes[Hq] % sizes[Hkv] != 0) {
    throw Refusal("Hq (query heads) must be a multiple of Hkv (key heads) = " + std::to_string(sizes[Hkv]) + ", got " +
                  std::to_string(sizes[Hq]));
  }
  if (sizes[B] * sizes[L] > 0 && sizes[B] * sizes[L] > INT32_MAX / sizes[Hq]) {
    throw Refusal("B * L * Hq must be below 2^31, got " + std::to_string(sizes[B] * sizes[L] * sizes[Hq]));
  }
}

// On a GPU the lengths are the device's: there the kernel itself drops what does not fit.
void check_room(const CausalAttentionParams& p, Device device) {
  if (device != Device::kCpu) return;
  for (int b = 0; b < p.batch; ++b) {
    const int64_t past = p.past_lens[b], fresh = p.seq_lens ? p.seq_lens[b] : p.length;
    const std::string row = " in row " + std::to_string(b);
    if (fresh < 0 || fresh > p.length) {
      throw Refusal("input 'seq_lens' must be 0 to L = " + std::to_string(p.length) + ", got " +
                    std::to_string(fresh) + row);
    }
    if (past < 0 || past + fresh > p.capacity) {
      throw Refusal("input 'past_lens' must be 0 to S - seq_lens = " + std::to_string(p.capacity - fresh) + ", got " +
                    std::to_string(past) + row);
    }
  }
}

}  // namespace

Op causal_attention_op() {
  Op op = {"CausalAttention", sizeof(CausalAttentionParams)};
  op.sizes = {{"B", FIELD(batch), {}, {1, kMaxGrid}},
              {"L", FIELD(length)},
              {"Hq", FIELD(query_heads), {1, kMaxGrid}},
              {"Hkv", FIELD(kv_heads), {1, kMaxGrid}},
              {"Dh", FIELD(key_dim), {1, 256}},
              {"Dv", FIELD(value_dim), {1, 256}},
              {"S", FIELD(capacity)}};
  op.inputs = {Tensor(FIELD(query), 'T', {B, L, Hq, Dh}).strided(FIELD(query_stride)),
               Tensor(FIELD(key), 'T', {B, L, Hkv, Dh}).strided(FIELD(key_stride)),
               Tensor(FIELD(value), 'T', {B, L, Hkv, Dv}).strided(FIELD(value_stride)),
               {FIELD(past_key), 'T', {B, Hkv, S, Dh}},
               {FIELD(past_value), 'T', {B, Hkv, S, Dv}},
               {FIELD(past_lens), 'I', {B}},
               Tensor(FIELD(seq_lens), 'I', {B}).optional()};
  op.outputs = {{FIELD(y), 'T', {B, L, Hq, Dv}},
                {FIELD(present_key), 'T', {B, Hkv, S, Dh}},
                {FIELD(present_value), 'T', {B, Hkv, S, Dv}}};
  op.attributes = {
      Attribute(FIELD(scale), 0).inverse_root_at_0(Dh), {FIELD(window), 0, 0, kMaxSize}, {FIELD(softcap), 0}};
  op.tuning = {{FIELD(splits), kMaxGrid}};
  op.workspace = {FIELD(workspace), FIELD(workspace_bytes), kSplitBytes, SEQEXPORT_IF_CUDA(causal_attention_workspace)};
  op.check = check;
  op.check_params = erased<&check_room>;
  return op;
}

}  // namespace seqexport
