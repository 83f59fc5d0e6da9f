#include "selective_scan.h"

#include "ops.h"

namespace seqexport::tensorrt {
namespace {

enum Size { B, L, D, N, G };
enum Input { kX, kDt, kA, kB, kC, kD, kZ, kDtBias, kPast, kSeqLens };
enum Output { kY, kPresent };
enum Attributes { kDtSoftplus };

void check(const Sizes& sizes) {
  if (sizes[D] >= 0 && sizes[G] > sizes[D]) {
    throw Refusal("G (groups) must be at most D (channels) = " + std::to_string(sizes[D]) + ", got " +
                  std::to_string(sizes[G]));
  }
}

cudaError_t launch(const Call& call) {
  SelectiveScanParams p = {};
  p.dtype = call.dtype();
  p.batch = call.size(B);
  p.length = call.size(L);
  p.channels = call.size(D);
  p.states = call.size(N);
  p.groups = call.size(G);
  p.dt_softplus = int32_t(call.attribute(kDtSoftplus));
  p.x_stride = p.dt_stride = p.z_stride = p.channels;
  p.B_stride = p.C_stride = int64_t(p.groups) * p.states;
  p.x = call.input(kX);
  p.dt = call.input(kDt);
  p.A = call.input<float>(kA);
  p.B = call.input(kB);
  p.C = call.input(kC);
  p.D = call.input<float>(kD);
  p.z = call.input(kZ);
  p.dt_bias = call.input<float>(kDtBias);
  p.past = call.input<float>(kPast);
  p.seq_lens = call.input<int32_t>(kSeqLens);
  p.y = call.output(kY);
  p.present = call.output<float>(kPresent);
  p.workspace = call.workspace;
  p.workspace_bytes = call.workspace_bytes;
  return seqexport::selective_scan(p, call.stream);
}

}  // namespace

const Op& selective_scan() {
  static const Op& op = *new Op{
      "SelectiveScan",
      {{"B", 1, 65535}, {"L", 1, 1 << 30}, {"D", 1, 1 << 30}, {"N", 1, 256}, {"G", 1, 1 << 30}},
      {{"x", 'T', {B, L, D}},
       {"dt", 'T', {B, L, D}},
       {"A", 'F', {D, N}},
       {"B", 'T', {B, L, G, N}},
       {"C", 'T', {B, L, G, N}},
       {"D", 'F', {D}, true},
       {"z", 'T', {B, L, D}, true},
       {"dt_bias", 'F', {D}, true},
       {"past", 'F', {B, D, N}},
       {"seq_lens", 'I', {B}, true}},
      {{"y", 'T', {B, L, D}}, {"present", 'F', {B, D, N}}},
      {{"dt_softplus", Attribute::kInt, 0, 0, 1}},
      check,
      kSplitBytes,
      launch,
  };
  return op;
}

}  // namespace seqexport::tensorrt
