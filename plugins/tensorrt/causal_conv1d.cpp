#include "causal_conv1d.h"

#include "ops.h"

namespace seqexport::tensorrt {
namespace {

enum Size { B, L, D, K };
enum Input { kX, kWeight, kBias, kPast, kSeqLens };
enum Output { kY, kPresent };
enum Attributes { kActivation };

void check(const Sizes&) {}

cudaError_t launch(const Call& call) {
  CausalConv1dParams p = {};
  p.dtype = call.dtype();
  p.batch = call.size(B);
  p.length = call.size(L);
  p.channels = call.size(D);
  p.kernel_size = call.size(K);
  p.activation = int32_t(call.attribute(kActivation));
  p.x_stride = p.channels;
  p.x = call.input(kX);
  p.weight = call.input(kWeight);
  p.bias = call.input(kBias);
  p.past = call.input(kPast);
  p.seq_lens = call.input<int32_t>(kSeqLens);
  p.y = call.output(kY);
  p.present = call.output(kPresent);
  return seqexport::causal_conv1d(p, call.stream);
}

}  // namespace

static_assert(SEQEXPORT_ACTIVATION_NONE == 0 && SEQEXPORT_ACTIVATION_SILU == 1, "the order of the choices below");

const Op& causal_conv1d() {
  static const Op& op = *new Op{
      "CausalConv1d",
      {{"B", 1, 65535}, {"L", 1, 1 << 30}, {"D", 1, 1 << 30}, {"K", 2, 8}},
      {{"x", 'T', {B, L, D}},
       {"weight", 'T', {D, K}},
       {"bias", 'T', {D}, true},
       {"past", 'T', {B, D, {K, -1}}},
       {"seq_lens", 'I', {B}, true}},
      {{"y", 'T', {B, L, D}}, {"present", 'T', {B, D, {K, -1}}}},
      {{"activation", Attribute::kChoice, 0, 0, 1, {"none", "silu"}}},
      check,
      0,
      launch,
  };
  return op;
}

}  // namespace seqexport::tensorrt
