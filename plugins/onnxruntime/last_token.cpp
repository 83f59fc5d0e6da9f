#include "launch.h"

namespace seqexport::ort {
namespace {

enum { kX, kSeqLens };

class LastToken : public Kernel {
 public:
  explicit LastToken(Provider provider) : provider_(provider) {}

  void compute(Call& call) const override {
    const Tensor x = call.input(kX, 3), seq_lens = call.input(kSeqLens, 1);
    const Axis B{"B", x.shape[0]}, L{"L", x.shape[1]}, D{"D", x.shape[2]};
    call.require_sizes(x, {B, L, D});
    call.require_shape(seq_lens, {B});

    LastTokenParams p{};
    p.dtype = call.dtype();
    p.batch = B.size;
    p.length = L.size;
    p.channels = D.size;
    p.x = x.data;
    p.seq_lens = static_cast<const int32_t*>(seq_lens.data);
    p.y = call.output(0, {B.size, 1, D.size});
    launch(call, provider_, p);
  }

 private:
  Provider provider_;
};

class LastTokenOp : public OpInfo {
 public:
  const char* name() const override { return "LastToken"; }
  const std::vector<Input>& inputs() const override {
    static const auto& all = *new std::vector<Input>{{"x", Kind::T}, {"seq_lens", Kind::I}};
    return all;
  }
  const std::vector<Output>& outputs() const override {
    static const auto& all = *new std::vector<Output>{{Kind::T}};
    return all;
  }
  std::unique_ptr<Kernel> create(const Attributes&, Provider provider) const override {
    return std::make_unique<LastToken>(provider);
  }
  void infer(const ShapeRule& rule) const override { rule.of_axes(0, kX, {{kX, 0}, ShapeRule::kOne, {kX, 2}}); }
};

}  // namespace

const OpInfo& last_token_op() {
  static const auto& op = *new LastTokenOp;
  return op;
}

}  // namespace seqexport::ort
