#include "rms_norm.h"

#include <cfloat>

#include "ops.h"

namespace seqexport::tensorrt {
namespace {

enum Size { B, L, D };
enum Input { kX, kWeight, kResidual };
enum Output { kY, kSum };
enum Attributes { kEpsilon, kWide };

void check(const Sizes& sizes) { require_tokens(sizes[B], sizes[L]); }

cudaError_t launch(const Call& call) {
  RmsNormParams p = {};
  p.dtype = call.dtype();
  p.rows = call.size(B) * call.size(L);
  p.channels = call.size(D);
  p.wide = int32_t(call.attribute(kWide));
  p.epsilon = float(call.attribute(kEpsilon));
  p.x = call.input(kX);
  p.weight = call.input(kWeight);
  p.residual = call.input(kResidual);
  p.y = call.output(kY);
  p.sum = call.output(kSum);
  return seqexport::rms_norm(p, call.stream);
}

}  // namespace

const Op& rms_norm() {
  static const Op& op = *new Op{
      "RmsNorm",
      {{"B", 1, 65535}, {"L", 1, 1 << 30}, {"D", 1, 1 << 30}},
      {{"x", 'T', {B, L, D}}, {"weight", 'T', {D}}, {"residual", 'S', {B, L, D}, true}},
      {{"y", 'T', {B, L, D}}, {"sum", 'S', {B, L, D}}},
      {{"epsilon", Attribute::kFloat, 1e-6, 0, FLT_MAX}, {kWideAttribute, Attribute::kInt, 0, 0, 1}},
      check,
      0,
      launch,
  };
  return op;
}

}  // namespace seqexport::tensorrt
