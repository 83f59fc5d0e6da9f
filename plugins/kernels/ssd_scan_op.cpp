#include "ssd_scan.h"

#include "op.h"

#define FIELD(name) SEQEXPORT_FIELD(SsdScanParams, name)

namespace seqexport {
namespace {

constexpr size_t kMostWorkspace = size_t(64) << 20;

enum Dimension { B, L, H, P, N, G };

void check(const Sizes& sizes) {
  if (sizes[H] >= 0 && sizes[G] > sizes[H]) {
    throw Refusal("G (groups) must be at most H (heads) = " + std::to_string(sizes[H]) + ", got " +
                  std::to_string(sizes[G]));
  }
}

}  // namespace

Op ssd_scan_op() {
  Op op = {"SsdScan", sizeof(SsdScanParams)};
  op.sizes = {{"B", FIELD(batch), {}, {1, kMaxGrid}}, {"L", FIELD(length)},
              {"H", FIELD(heads), {}, {1, kMaxGrid}}, {"P", FIELD(head_size), {}, {1, 256}},
              {"N", FIELD(states), {1, 256}},         {"G", FIELD(groups)}};
  op.inputs = {Tensor(FIELD(x), 'T', {B, L, H, P}).strided(FIELD(x_stride)),
               Tensor(FIELD(dt), 'T', {B, L, H}).strided(FIELD(dt_stride)),
               {FIELD(A), 'F', {H}},
               Tensor(FIELD(B), 'T', {B, L, G, N}).strided(FIELD(B_stride)),
               Tensor(FIELD(C), 'T', {B, L, G, N}).strided(FIELD(C_stride)),
               Tensor(FIELD(D), 'F', {H}).optional(),
               Tensor(FIELD(z), 'T', {B, L, H, P}).optional().strided(FIELD(z_stride)),
               Tensor(FIELD(dt_bias), 'F', {H}).optional(),
               {FIELD(past), 'F', {B, H, P, N}},
               Tensor(FIELD(seq_lens), 'I', {B}).optional()};
  op.outputs = {{FIELD(y), 'T', {B, L, H, P}}, {FIELD(present), 'F', {B, H, P, N}}};
  op.attributes = {{FIELD(dt_softplus), 0, 0, 1}, {FIELD(dt_min), 0.0}, {FIELD(dt_max), 0.0}};
  op.tuning = {{FIELD(segments), kMaxGrid}};
  op.workspace = {FIELD(workspace), FIELD(workspace_bytes), kMostWorkspace, SEQEXPORT_IF_CUDA(ssd_scan_workspace)};
  op.check = check;
  return op;
}

}  // namespace seqexport
