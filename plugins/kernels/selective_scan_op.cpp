#include "op.h"
#include "selective_scan.h"

#define FIELD(name) SEQEXPORT_FIELD(SelectiveScanParams, name)

namespace seqexport {
namespace {

enum Dimension { B, L, D, N, G };

void check(const Sizes& sizes) {
  if (sizes[D] >= 0 && sizes[G] > sizes[D]) {
    throw Refusal("G (groups) must be at most D (channels) = " + std::to_string(sizes[D]) + ", got " +
                  std::to_string(sizes[G]));
  }
}

}  // namespace

Op selective_scan_op() {
  Op op = {"SelectiveScan", sizeof(SelectiveScanParams)};
  op.sizes = {{"B", FIELD(batch), {}, {1, kMaxGrid}},
              {"L", FIELD(length)},
              {"D", FIELD(channels)},
              {"N", FIELD(states), {1, 256}},
              {"G", FIELD(groups)}};
  op.inputs = {Tensor(FIELD(x), 'T', {B, L, D}).strided(FIELD(x_stride)),
               Tensor(FIELD(dt), 'T', {B, L, D}).strided(FIELD(dt_stride)),
               {FIELD(A), 'F', {D, N}},
               Tensor(FIELD(B), 'T', {B, L, G, N}).strided(FIELD(B_stride)),
               Tensor(FIELD(C), 'T', {B, L, G, N}).strided(FIELD(C_stride)),
               Tensor(FIELD(D), 'F', {D}).optional(),
               Tensor(FIELD(z), 'T', {B, L, D}).optional().strided(FIELD(z_stride)),
               Tensor(FIELD(dt_bias), 'F', {D}).optional(),
               {FIELD(past), 'F', {B, D, N}},
               Tensor(FIELD(seq_lens), 'I', {B}).optional()};
  op.outputs = {{FIELD(y), 'T', {B, L, D}}, {FIELD(present), 'F', {B, D, N}}};
  op.attributes = {{FIELD(dt_softplus), 0, 0, 1}, {FIELD(reverse_groups), 0, 0, kMaxSize}};
  op.tuning = {{FIELD(chunks), kMaxGrid}};
  op.workspace = {FIELD(workspace), FIELD(workspace_bytes), kSplitBytes, SEQEXPORT_IF_CUDA(selective_scan_workspace)};
  op.check = check;
  return op;
}

}  // namespace seqexport
