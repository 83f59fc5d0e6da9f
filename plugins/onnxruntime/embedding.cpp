#include "launch.h"

namespace seqexport::ort {
namespace {

enum { kWeight, kIds };

class Embedding : public Kernel {
 public:
  explicit Embedding(Provider provider) : provider_(provider) {}

  void compute(Call& call) const override {
    const Tensor weight = call.input(kWeight, 2), ids = call.input(kIds, 2);
    const Axis V{"V", weight.shape[0]}, D{"D", weight.shape[1]}, B{"B", ids.shape[0]}, L{"L", ids.shape[1]};
    call.require_sizes(weight, {V, D});
    call.require_sizes(ids, {B, L, {"B*L", B.size * L.size}});

    EmbeddingParams p{};
    p.dtype = call.dtype();
    p.rows = B.size * L.size;
    p.vocab = V.size;
    p.channels = D.size;
    p.weight = weight.data;
    p.ids = static_cast<const int32_t*>(ids.data);
    p.y = call.output(0, {B.size, L.size, D.size});
    launch(call, provider_, p);
  }

 private:
  Provider provider_;
};

class EmbeddingOp : public OpInfo {
 public:
  const char* name() const override { return "Embedding"; }
  const std::vector<Input>& inputs() const override {
    static const auto& all = *new std::vector<Input>{{"weight", Kind::T}, {"ids", Kind::I}};
    return all;
  }
  const std::vector<Output>& outputs() const override {
    static const auto& all = *new std::vector<Output>{{Kind::T}};
    return all;
  }
  std::unique_ptr<Kernel> create(const Attributes&, Provider provider) const override {
    return std::make_unique<Embedding>(provider);
  }
  void infer(const ShapeRule& rule) const override {
    rule.of_axes(0, kWeight, {{kIds, 0}, {kIds, 1}, {kWeight, 1}});
  }
};

}  // namespace

const OpInfo& embedding_op() {
  static const auto& op = *new EmbeddingOp;
  return op;
}

}  // namespace seqexport::ort
