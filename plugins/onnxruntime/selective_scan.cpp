#include "launch.h"

namespace seqexport::ort {
namespace {

enum { kX, kDt, kA, kB, kC, kD, kZ, kDtBias, kPast, kSeqLens };

class SelectiveScan : public Kernel {
 public:
  SelectiveScan(const Attributes& attributes, Provider provider)
      : provider_(provider), dt_softplus_(attributes.integer("dt_softplus", 0)) {
    if (dt_softplus_ != 0 && dt_softplus_ != 1) {
      attributes.refuse("attribute dt_softplus: expected 0 or 1, got " + std::to_string(dt_softplus_));
    }
  }

  void compute(Call& call) const override {
    const Tensor x = call.input(kX, 3), dt = call.input(kDt, 3), A = call.input(kA, 2), B = call.input(kB, 4);
    const Tensor C = call.input(kC, 4), D = call.input(kD, 1), z = call.input(kZ, 3);
    const Tensor dt_bias = call.input(kDtBias, 1), past = call.input(kPast, 3), seq_lens = call.input(kSeqLens, 1);
    const Axis batch{"B", x.shape[0]}, length{"L", x.shape[1]}, channels{"D", x.shape[2]};
    const Axis states{"N", A.shape[1]}, groups{"G", B.shape[2]};
    call.require_sizes(x, {batch, length, channels});
    call.require_size("A", states, 1, 256);
    call.require_size("B", groups, 1, channels.size);
    call.require_shape(dt, {batch, length, channels});
    call.require_shape(A, {channels, states});
    call.require_shape(B, {batch, length, groups, states});
    call.require_shape(C, {batch, length, groups, states});
    call.require_shape(D, {channels});
    call.require_shape(z, {batch, length, channels});
    call.require_shape(dt_bias, {channels});
    call.require_shape(past, {batch, channels, states});
    call.require_shape(seq_lens, {batch});

    SelectiveScanParams p{};
    p.dtype = call.dtype();
    p.batch = batch.size;
    p.length = length.size;
    p.channels = channels.size;
    p.states = states.size;
    p.groups = groups.size;
    p.dt_softplus = dt_softplus_;
    p.x_stride = p.dt_stride = p.z_stride = channels.size;
    p.B_stride = p.C_stride = groups.size * states.size;
    p.x = x.data;
    p.dt = dt.data;
    p.A = static_cast<const float*>(A.data);
    p.B = B.data;
    p.C = C.data;
    p.D = static_cast<const float*>(D.data);
    p.z = z.data;
    p.dt_bias = static_cast<const float*>(dt_bias.data);
    p.past = static_cast<const float*>(past.data);
    p.seq_lens = static_cast<const int32_t*>(seq_lens.data);
    p.y = call.output(0, x.shape);
    p.present = static_cast<float*>(call.output(1, past.shape));
    launch(call, provider_, p);
  }

 private:
  Provider provider_;
  int64_t dt_softplus_;
};

class SelectiveScanOp : public OpInfo {
 public:
  const char* name() const override { return "SelectiveScan"; }
  const std::vector<Input>& inputs() const override {
    static const auto& all = *new std::vector<Input>{
        {"x", Kind::T}, {"dt", Kind::T},      {"A", Kind::F},       {"B", Kind::T},
        {"C", Kind::T}, {"D", Kind::F, true}, {"z", Kind::T, true}, {"dt_bias", Kind::F, true},
        {"past", Kind::F}, {"seq_lens", Kind::I, true}};
    return all;
  }
  const std::vector<Output>& outputs() const override {
    static const auto& all = *new std::vector<Output>{{Kind::T}, {Kind::F}};
    return all;
  }
  std::unique_ptr<Kernel> create(const Attributes& attributes, Provider provider) const override {
    return std::make_unique<SelectiveScan>(attributes, provider);
  }
  void infer(const ShapeRule& rule) const override {
    rule.same(0, kX);
    rule.same(1, kPast);
  }
};

}  // namespace

const OpInfo& selective_scan_op() {
  static const auto& op = *new SelectiveScanOp;
  return op;
}

}  // namespace seqexport::ort
