// The library without CUDA: every provider is the CPU's.
#include "launch_cpu.h"

namespace seqexport::ort {

void launch(Call& call, Provider, const CausalConv1dParams& p) { launch_cpu(call, p); }
void launch(Call& call, Provider, SelectiveScanParams& p) { launch_cpu(call, p); }
void launch(Call& call, Provider, CausalAttentionParams& p) { launch_cpu(call, p); }

}  // namespace seqexport::ort
