#include "causal_attention.h"

#include <cfloat>
#include <cmath>

#include "ops.h"

namespace seqexport::tensorrt {
namespace {

enum Size { B, L, Hq, Hkv, Dh, Dv, S };
enum Input { kQuery, kKey, kValue, kPastKey, kPastValue, kPastLens, kSeqLens };
enum Output { kY, kPresentKey, kPresentValue };
enum Attributes { kScale, kWindow, kSoftcap };

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

cudaError_t launch(const Call& call) {
  CausalAttentionParams p = {};
  p.dtype = call.dtype();
  p.batch = call.size(B);
  p.length = call.size(L);
  p.query_heads = call.size(Hq);
  p.kv_heads = call.size(Hkv);
  p.key_dim = call.size(Dh);
  p.value_dim = call.size(Dv);
  p.capacity = call.size(S);
  p.window = int32_t(call.attribute(kWindow));
  p.scale = call.attribute(kScale) > 0 ? float(call.attribute(kScale)) : float(1 / std::sqrt(double(p.key_dim)));
  p.softcap = float(call.attribute(kSoftcap));
  p.query_stride = int64_t(p.query_heads) * p.key_dim;
  p.key_stride = int64_t(p.kv_heads) * p.key_dim;
  p.value_stride = int64_t(p.kv_heads) * p.value_dim;
  p.query = call.input(kQuery);
  p.key = call.input(kKey);
  p.value = call.input(kValue);
  p.past_key = call.input(kPastKey);
  p.past_value = call.input(kPastValue);
  p.past_lens = call.input<int32_t>(kPastLens);
  p.seq_lens = call.input<int32_t>(kSeqLens);
  p.y = call.output(kY);
  p.present_key = call.output(kPresentKey);
  p.present_value = call.output(kPresentValue);
  p.workspace = call.workspace;
  p.workspace_bytes = call.workspace_bytes;
  return seqexport::causal_attention(p, call.stream);
}

}  // namespace

const Op& causal_attention() {
  static const Op& op = *new Op{
      "CausalAttention",
      {{"B", 1, 65535}, {"L", 1, 1 << 30}, {"Hq", 1, 65535}, {"Hkv", 1, 65535}, {"Dh", 1, 256}, {"Dv", 1, 256},
       {"S", 1, 1 << 30}},
      {{"query", 'T', {B, L, Hq, Dh}},
       {"key", 'T', {B, L, Hkv, Dh}},
       {"value", 'T', {B, L, Hkv, Dv}},
       {"past_key", 'T', {B, Hkv, S, Dh}},
       {"past_value", 'T', {B, Hkv, S, Dv}},
       {"past_lens", 'I', {B}},
       {"seq_lens", 'I', {B}, true}},
      {{"y", 'T', {B, L, Hq, Dv}}, {"present_key", 'T', {B, Hkv, S, Dh}}, {"present_value", 'T', {B, Hkv, S, Dv}}},
      {{"scale", Attribute::kFloat, 0, 0, FLT_MAX},
       {"window", Attribute::kInt, 0, 0, 1 << 30},
       {"softcap", Attribute::kFloat, 0, 0, FLT_MAX}},
      check,
      kSplitBytes,
      launch,
  };
  return op;
}

}  // namespace seqexport::tensorrt
