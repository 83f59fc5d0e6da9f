#include "linear.h"

#include "ops.h"

namespace seqexport::tensorrt {
namespace {

enum Size { B, L, K, N, N1, N2 };
enum Input { kX, kWeight, kBias, kWeight1, kBias1, kWeight2, kBias2 };
enum Output { kY, kY1, kY2 };

void check(const Sizes& sizes) { require_tokens(sizes[B], sizes[L]); }

cudaError_t launch(const Call& call) {
  LinearParams p = {};
  p.dtype = call.dtype();
  p.rows = call.size(B) * call.size(L);
  p.in_features = call.size(K);
  p.out_features = call.size(N);
  p.x = call.input(kX);
  p.weight = call.input(kWeight);
  p.bias = call.input(kBias);
  p.y = call.output(kY);
  if (call.input(kWeight1)) {
    p.out_features1 = call.size(N1);
    p.weight1 = call.input(kWeight1);
    p.bias1 = call.input(kBias1);
    p.y1 = call.output(kY1);
  }
  if (call.input(kWeight2)) {
    p.out_features2 = call.size(N2);
    p.weight2 = call.input(kWeight2);
    p.bias2 = call.input(kBias2);
    p.y2 = call.output(kY2);
  }
  p.workspace = call.workspace;
  p.workspace_bytes = call.workspace_bytes;
  const cudaError_t e = seqexport::linear(p, call.stream);
  if (e == cudaErrorSharedObjectInitFailed) throw Refusal(linear_fault());
  return e;
}

}  // namespace

const Op& linear() {
  static const Op& op = *new Op{
      "Linear",
      {{"B", 1, 65535},
       {"L", 1, 1 << 30},
       {"K", 1, 1 << 30},
       {"N", 1, 1 << 28},
       {"N1", 1, 1 << 28},
       {"N2", 1, 1 << 28}},
      {{"x", 'T', {B, L, K}},
       {"weight", 'T', {N, K}},
       {"bias", 'T', {N}, true},
       {"weight1", 'T', {N1, K}, true},
       {"bias1", 'T', {N1}, true, "weight1"},
       {"weight2", 'T', {N2, K}, true, "weight1"},
       {"bias2", 'T', {N2}, true, "weight2"}},
      {{"y", 'T', {B, L, N}}, {"y1", 'T', {B, L, N1}, true, "weight1"}, {"y2", 'T', {B, L, N2}, true, "weight2"}},
      {},
      check,
      kLinearWorkspace,
      launch,
  };
  return op;
}

}  // namespace seqexport::tensorrt
