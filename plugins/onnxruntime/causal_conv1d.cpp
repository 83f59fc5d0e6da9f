#include "launch.h"

namespace seqexport::ort {
namespace {

enum { kX, kWeight, kBias, kPast, kSeqLens };

class CausalConv1d : public Kernel {
 public:
  CausalConv1d(const Attributes& attributes, Provider provider) : provider_(provider) {
    const std::string activation = attributes.text("activation", "none");
    if (activation != "none" && activation != "silu") {
      attributes.refuse("attribute activation: expected 'none' or 'silu', got '" + activation + "'");
    }
    activation_ = activation == "silu" ? SEQEXPORT_ACTIVATION_SILU : SEQEXPORT_ACTIVATION_NONE;
  }

  void compute(Call& call) const override {
    const Tensor x = call.input(kX, 3), weight = call.input(kWeight, 2), bias = call.input(kBias, 1);
    const Tensor past = call.input(kPast, 3), seq_lens = call.input(kSeqLens, 1);
    const Axis B{"B", x.shape[0]}, L{"L", x.shape[1]}, D{"D", x.shape[2]}, K{"K", weight.shape[1]};
    call.require_sizes(x, {B, L, D});
    call.require_size("weight", K, provider_ == Provider::kCpu ? 1 : 2, provider_ == Provider::kCpu ? 64 : 8);
    call.require_shape(weight, {D, K});
    call.require_shape(bias, {D});
    call.require_shape(past, {B, D, {"K-1", K.size - 1}});
    call.require_shape(seq_lens, {B});

    CausalConv1dParams p{};
    p.dtype = call.dtype();
    p.batch = B.size;
    p.length = L.size;
    p.channels = D.size;
    p.kernel_size = K.size;
    p.activation = activation_;
    p.x_stride = D.size;
    p.x = x.data;
    p.weight = weight.data;
    p.bias = bias.data;
    p.past = past.data;
    p.seq_lens = static_cast<const int32_t*>(seq_lens.data);
    p.y = call.output(0, x.shape);
    p.present = call.output(1, past.shape);
    launch(call, provider_, p);
  }

 private:
  Provider provider_;
  int32_t activation_;
};

class CausalConv1dOp : public OpInfo {
 public:
  const char* name() const override { return "CausalConv1d"; }
  const std::vector<Input>& inputs() const override {
    static const auto& all = *new std::vector<Input>{
        {"x", Kind::T}, {"weight", Kind::T}, {"bias", Kind::T, true}, {"past", Kind::T}, {"seq_lens", Kind::I, true}};
    return all;
  }
  const std::vector<Output>& outputs() const override {
    static const auto& all = *new std::vector<Output>{{Kind::T}, {Kind::T}};
    return all;
  }
  std::unique_ptr<Kernel> create(const Attributes& attributes, Provider provider) const override {
    return std::make_unique<CausalConv1d>(attributes, provider);
  }
  void infer(const ShapeRule& rule) const override {
    rule.same(0, kX);
    rule.same(1, kPast);
  }
};

}  // namespace

const OpInfo& causal_conv1d_op() {
  static const auto& op = *new CausalConv1dOp;
  return op;
}

}  // namespace seqexport::ort
