#include "linear.h"
#include "op.h"

#define FIELD(name) SEQEXPORT_FIELD(LinearParams, name)

namespace seqexport {
namespace {

enum { B, L, K, N, N1, N2 };

void check(const Sizes& sizes) {
  int64_t features = 0;
  for (const int size : {N, N1, N2}) features += sizes[size] > 0 ? sizes[size] : 0;
  if (features > kMaxSize) {
    throw Refusal("N + N1 + N2 (features) must be at most " + std::to_string(kMaxSize) + ", got " +
                  std::to_string(features));
  }
}

}  // namespace

Op linear_op() {
  Op op = {"Linear", sizeof(LinearParams)};
  op.sizes = {Size("B"),
              Size("L"),
              {"K", FIELD(in_features)},
              {"N", FIELD(out_features)},
              {"N1", FIELD(out_features1)},
              {"N2", FIELD(out_features2)}};
  op.rows = FIELD(rows);
  op.inputs = {{FIELD(x), 'T', {B, L, K}},
               {FIELD(weight), 'T', {N, K}},
               Tensor(FIELD(bias), 'T', {N}).optional(),
               Tensor(FIELD(weight1), 'T', {N1, K}).optional(),
               Tensor(FIELD(bias1), 'T', {N1}).optional("weight1"),
               Tensor(FIELD(weight2), 'T', {N2, K}).optional("weight1"),
               Tensor(FIELD(bias2), 'T', {N2}).optional("weight2")};
  op.outputs = {{FIELD(y), 'T', {B, L, N}},
                Tensor(FIELD(y1), 'T', {B, L, N1}).optional("weight1"),
                Tensor(FIELD(y2), 'T', {B, L, N2}).optional("weight2")};
  op.workspace = {FIELD(workspace), FIELD(workspace_bytes), kLinearWorkspace, SEQEXPORT_IF_CUDA(linear_workspace)};
  op.check = check;
  return op;
}

}  // namespace seqexport
