#include "launch.h"

namespace seqexport::ort {
namespace {

enum { kX, kWeight, kBias, kWeight1, kBias1, kWeight2, kBias2 };

class Linear : public Kernel {
 public:
  explicit Linear(Provider provider) : provider_(provider) {}

  void compute(Call& call) const override {
    const Tensor x = call.input(kX, 3);
    const Axis B{"B", x.shape[0]}, L{"L", x.shape[1]}, K{"K", x.shape[2]};
    call.require_sizes(x, {B, L, {"B*L", B.size * L.size}, K});
    const Projection first = projection(call, {"N", kWeight}, K), second = projection(call, {"N1", kWeight1}, K);
    const Projection third = projection(call, {"N2", kWeight2}, K);
    if (third.weight && !second.weight) call.refuse("input weight2 is given without weight1");
    call.require_outputs(third.weight ? 3 : second.weight ? 2 : 1);

    LinearParams p{};
    p.dtype = call.dtype();
    p.rows = B.size * L.size;
    p.in_features = K.size;
    p.out_features = first.features;
    p.out_features1 = second.features;
    p.out_features2 = third.features;
    p.x = x.data;
    p.weight = first.weight;
    p.bias = first.bias;
    p.weight1 = second.weight;
    p.bias1 = second.bias;
    p.weight2 = third.weight;
    p.bias2 = third.bias;
    p.y = call.output(0, {B.size, L.size, first.features});
    if (second.weight) p.y1 = call.output(1, {B.size, L.size, second.features});
    if (third.weight) p.y2 = call.output(2, {B.size, L.size, third.features});
    launch(call, provider_, p);
  }

 private:
  struct Projection {
    int64_t features = 0;  // 0: there is none
    const void *weight = nullptr, *bias = nullptr;
  };
  struct Place {
    const char* features;
    size_t weight;  // the bias comes after it
  };

  static Projection projection(Call& call, const Place& at, const Axis& K) {
    const Tensor weight = call.input(at.weight, 2), bias = call.input(at.weight + 1, 1);
    if (weight.shape.empty()) {
      if (!bias.shape.empty()) call.refuse(std::string("input ") + bias.input->name + " is given without its weight");
      return {};
    }
    const Axis N{at.features, weight.shape[0]};
    call.require_size(weight.input->name, N, 1, 1 << 28);
    call.require_shape(weight, {N, K});
    call.require_shape(bias, {N});
    return {N.size, weight.data, bias.data};
  }

  Provider provider_;
};

class LinearOp : public OpInfo {
 public:
  const char* name() const override { return "Linear"; }
  const std::vector<Input>& inputs() const override {
    static const auto& all = *new std::vector<Input>{
        {"x", Kind::T},           {"weight", Kind::T},        {"bias", Kind::T, true},  {"weight1", Kind::T, true},
        {"bias1", Kind::T, true}, {"weight2", Kind::T, true}, {"bias2", Kind::T, true}};
    return all;
  }
  const std::vector<Output>& outputs() const override {
    static const auto& all = *new std::vector<Output>{{Kind::T}, {Kind::T, true}, {Kind::T, true}};
    return all;
  }
  std::unique_ptr<Kernel> create(const Attributes&, Provider provider) const override {
    return std::make_unique<Linear>(provider);
  }
  void infer(const ShapeRule& rule) const override {
    rule.of_axes(0, kX, {{kX, 0}, {kX, 1}, {kWeight, 0}});
    rule.of_axes(1, kX, {{kX, 0}, {kX, 1}, {kWeight1, 0}});
    rule.of_axes(2, kX, {{kX, 0}, {kX, 1}, {kWeight2, 0}});
  }
};

}  // namespace

const OpInfo& linear_op() {
  static const auto& op = *new LinearOp;
  return op;
}

}  // namespace seqexport::ort
