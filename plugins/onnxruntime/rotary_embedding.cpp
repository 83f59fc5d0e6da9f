#include "launch.h"

namespace seqexport::ort {
namespace {

enum { kQuery, kKey, kCos, kSin };

class RotaryQueryKey : public Kernel {
 public:
  explicit RotaryQueryKey(Provider provider) : provider_(provider) {}

  void compute(Call& call) const override {
    const Tensor query = call.input(kQuery, 4), key = call.input(kKey, 4);
    const Tensor cos = call.input(kCos, 3), sin = call.input(kSin, 3);
    const Axis B{"B", query.shape[0]}, L{"L", query.shape[1]}, Hq{"Hq", query.shape[2]}, Dh{"Dh", query.shape[3]};
    const Axis Hkv{"Hkv", key.shape[2]}, R{"R", cos.shape[2]};
    call.require_sizes(query, {B, L, {"B*L", B.size * L.size}});
    for (const Axis& axis : {Hq, Dh}) call.require_size("query", axis, 1, 65535);
    call.require_size("key", Hkv, 1, 65535);
    call.require_size("cos", R, 2, Dh.size);
    if (R.size % 2 != 0) call.refuse("input cos: expected an even R, got " + std::to_string(R.size));
    call.require_shape(key, {B, L, Hkv, Dh});
    call.require_shape(cos, {B, L, R});
    call.require_shape(sin, {B, L, R});

    RotaryEmbeddingParams p{};
    p.dtype = call.dtype();
    p.rows = B.size * L.size;
    p.query_heads = Hq.size;
    p.kv_heads = Hkv.size;
    p.head_dim = Dh.size;
    p.rotary_dim = R.size;
    p.query = query.data;
    p.key = key.data;
    p.cos = cos.data;
    p.sin = sin.data;
    p.query_rotated = call.output(0, query.shape);
    p.key_rotated = call.output(1, key.shape);
    launch(call, provider_, p);
  }

 private:
  Provider provider_;
};

class RotaryEmbeddingOp : public OpInfo {
 public:
  const char* name() const override { return "RotaryQueryKey"; }
  const std::vector<Input>& inputs() const override {
    static const auto& all = *new std::vector<Input>{
        {"query", Kind::T}, {"key", Kind::T}, {"cos", Kind::T}, {"sin", Kind::T}};
    return all;
  }
  const std::vector<Output>& outputs() const override {
    static const auto& all = *new std::vector<Output>{{Kind::T}, {Kind::T}};
    return all;
  }
  std::unique_ptr<Kernel> create(const Attributes&, Provider provider) const override {
    return std::make_unique<RotaryQueryKey>(provider);
  }
  void infer(const ShapeRule& rule) const override {
    rule.same(0, kQuery);
    rule.same(1, kKey);
  }
};

}  // namespace

const OpInfo& rotary_embedding_op() {
  static const auto& op = *new RotaryEmbeddingOp;
  return op;
}

}  // namespace seqexport::ort
