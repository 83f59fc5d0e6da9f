#include <cmath>

#include "launch.h"

namespace seqexport::ort {
namespace {

enum { kQuery, kKey, kValue, kPastKey, kPastValue, kPastLens, kSeqLens };

class CausalAttention : public Kernel {
 public:
  CausalAttention(const Attributes& attributes, Provider provider)
      : provider_(provider),
        scale_(attributes.number("scale", 0)),
        softcap_(attributes.number("softcap", 0)),
        window_(attributes.integer("window", 0)) {
    require(attributes, "scale", scale_);
    require(attributes, "softcap", softcap_);
    if (window_ < 0 || window_ > INT32_MAX) {
      attributes.refuse("attribute window: expected 0 (all) to 2147483647, got " + std::to_string(window_));
    }
  }

  void compute(Call& call) const override {
    const Tensor query = call.input(kQuery, 4), key = call.input(kKey, 4), value = call.input(kValue, 4);
    const Tensor past_key = call.input(kPastKey, 4), past_value = call.input(kPastValue, 4);
    const Tensor past_lens = call.input(kPastLens, 1), seq_lens = call.input(kSeqLens, 1);
    const Axis B{"B", query.shape[0]}, L{"L", query.shape[1]}, Hq{"Hq", query.shape[2]}, Dh{"Dh", query.shape[3]};
    const Axis Hkv{"Hkv", key.shape[2]}, Dv{"Dv", value.shape[3]}, S{"S", past_key.shape[2]};
    call.require_sizes(query, {B, L, Hq});
    call.require_sizes(key, {Hkv});
    call.require_sizes(past_key, {S});
    call.require_size("query", Dh, 1, 256);
    call.require_size("value", Dv, 1, 256);
    if (Hq.size % Hkv.size != 0) {
      call.refuse("input key: expected Hkv that divides the Hq = " + std::to_string(Hq.size) + " of query, got Hkv = " +
                  std::to_string(Hkv.size));
    }
    call.require_shape(key, {B, L, Hkv, Dh});
    call.require_shape(value, {B, L, Hkv, Dv});
    call.require_shape(past_key, {B, Hkv, S, Dh});
    call.require_shape(past_value, {B, Hkv, S, Dv});
    call.require_shape(past_lens, {B});
    call.require_shape(seq_lens, {B});

    CausalAttentionParams p{};
    p.dtype = call.dtype();
    p.batch = B.size;
    p.length = L.size;
    p.query_heads = Hq.size;
    p.kv_heads = Hkv.size;
    p.key_dim = Dh.size;
    p.value_dim = Dv.size;
    p.capacity = S.size;
    p.window = window_;
    p.scale = scale_ != 0 ? scale_ : 1 / std::sqrt(static_cast<float>(Dh.size));
    p.softcap = softcap_;
    p.query_stride = Hq.size * Dh.size;
    p.key_stride = Hkv.size * Dh.size;
    p.value_stride = Hkv.size * Dv.size;
    p.query = query.data;
    p.key = key.data;
    p.value = value.data;
    p.past_key = past_key.data;
    p.past_value = past_value.data;
    p.past_lens = static_cast<const int32_t*>(past_lens.data);
    p.seq_lens = static_cast<const int32_t*>(seq_lens.data);
    if (provider_ == Provider::kCpu) require_room(call, p);
    p.y = call.output(0, {B.size, L.size, Hq.size, Dv.size});
    p.present_key = call.output(1, past_key.shape);
    p.present_value = call.output(2, past_value.shape);
    launch(call, provider_, p);
  }

 private:
  static void require(const Attributes& attributes, const char* name, float value) {
    if (!std::isfinite(value) || value < 0) {
      attributes.refuse(std::string("attribute ") + name + ": expected a finite number, 0 or more, got " +
                        std::to_string(value));
    }
  }

  // On a GPU the lengths are the device's: there the kernel itself drops what does not fit.
  static void require_room(Call& call, const CausalAttentionParams& p) {
    for (int b = 0; b < p.batch; ++b) {
      const int64_t past = p.past_lens[b], fresh = p.seq_lens ? p.seq_lens[b] : p.length;
      if (fresh < 0 || fresh > p.length) {
        call.refuse("input seq_lens: expected 0 to L = " + std::to_string(p.length) + ", got " +
                    std::to_string(fresh) + " in row " + std::to_string(b));
      }
      if (past < 0 || past + fresh > p.capacity) {
        call.refuse("input past_lens: expected 0 to S - seq_lens = " + std::to_string(p.capacity - fresh) + ", got " +
                    std::to_string(past) + " in row " + std::to_string(b));
      }
    }
  }

  Provider provider_;
  float scale_, softcap_;
  int64_t window_;
};

class CausalAttentionOp : public OpInfo {
 public:
  const char* name() const override { return "CausalAttention"; }
  const std::vector<Input>& inputs() const override {
    static const auto& all = *new std::vector<Input>{
        {"query", Kind::T},      {"key", Kind::T},       {"value", Kind::T},         {"past_key", Kind::T},
        {"past_value", Kind::T}, {"past_lens", Kind::I}, {"seq_lens", Kind::I, true}};
    return all;
  }
  const std::vector<Output>& outputs() const override {
    static const auto& all = *new std::vector<Output>{{Kind::T}, {Kind::T}, {Kind::T}};
    return all;
  }
  std::unique_ptr<Kernel> create(const Attributes& attributes, Provider provider) const override {
    return std::make_unique<CausalAttention>(attributes, provider);
  }
  void infer(const ShapeRule& rule) const override {
    rule.of_axes(0, kQuery, {{kQuery, 0}, {kQuery, 1}, {kQuery, 2}, {kValue, 3}});
    rule.same(1, kPastKey);
    rule.same(2, kPastValue);
  }
};

}  // namespace

const OpInfo& causal_attention_op() {
  static const auto& op = *new CausalAttentionOp;
  return op;
}

}  // namespace seqexport::ort
