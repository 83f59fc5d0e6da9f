#include <cmath>

#include "launch.h"

namespace seqexport::ort {
namespace {

enum { kX, kWeight, kResidual };

class RmsNorm : public Kernel {
 public:
  RmsNorm(const Attributes& attributes, Provider provider)
      : provider_(provider), epsilon_(attributes.number("epsilon", 1e-6f)), wide_(attributes.integer("wide", 0)) {
    if (!std::isfinite(epsilon_) || epsilon_ < 0) {
      attributes.refuse("attribute epsilon: expected a finite number, 0 or more, got " + std::to_string(epsilon_));
    }
    if (wide_ != 0 && wide_ != 1) {
      attributes.refuse("attribute wide: expected 0 or 1, got " + std::to_string(wide_));
    }
  }

  void compute(Call& call) const override {
    call.set_wide(wide_ == 1);
    const Tensor x = call.input(kX, 3), weight = call.input(kWeight, 1), residual = call.input(kResidual, 3);
    const Axis B{"B", x.shape[0]}, L{"L", x.shape[1]}, D{"D", x.shape[2]};
    call.require_sizes(x, {B, L, {"B*L", B.size * L.size}, D});
    call.require_shape(weight, {D});
    call.require_shape(residual, {B, L, D});

    RmsNormParams p{};
    p.dtype = call.dtype();
    p.rows = B.size * L.size;
    p.channels = D.size;
    p.wide = wide_;
    p.epsilon = epsilon_;
    p.x = x.data;
    p.weight = weight.data;
    p.residual = residual.data;
    p.y = call.output(0, x.shape);
    p.sum = call.output(1, x.shape);
    launch(call, provider_, p);
  }

 private:
  Provider provider_;
  float epsilon_;
  int64_t wide_;
};

// Where no shape rule is asked (see register.cpp), a sum has the type of the residual, or T without one: a model that
// says that the latter is wide is refused when it is loaded.
class RmsNormOp : public OpInfo {
 public:
  const char* name() const override { return "RmsNorm"; }
  const std::vector<Input>& inputs() const override {
    static const auto& all = *new std::vector<Input>{{"x", Kind::T}, {"weight", Kind::T}, {"residual", Kind::S, true}};
    return all;
  }
  const std::vector<Output>& outputs() const override {
    static const auto& all = *new std::vector<Output>{{Kind::T}, {Kind::S, true}};
    return all;
  }
  std::unique_ptr<Kernel> create(const Attributes& attributes, Provider provider) const override {
    return std::make_unique<RmsNorm>(attributes, provider);
  }
  void infer(const ShapeRule& rule) const override {
    rule.same(0, kX);
    rule.same_if_not_wide(1, kX);
  }
};

}  // namespace

const OpInfo& rms_norm_op() {
  static const auto& op = *new RmsNormOp;
  return op;
}

}  // namespace seqexport::ort
