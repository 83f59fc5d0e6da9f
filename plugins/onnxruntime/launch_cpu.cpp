// The library without CUDA: every provider is the CPU's.
#include "launch_cpu.h"

namespace seqexport::ort {

void launch(Call& call, Provider, const CausalConv1dParams& p) { launch_cpu(call, p); }
void launch(Call& call, Provider, SelectiveScanParams& p) { launch_cpu(call, p); }
void launch(Call& call, Provider, CausalAttentionParams& p) { launch_cpu(call, p); }
void launch(Call& call, Provider, const EmbeddingParams& p) { launch_cpu(call, p); }
void launch(Call& call, Provider, const LastTokenParams& p) { launch_cpu(call, p); }
void launch(Call& call, Provider, LinearParams& p) { launch_cpu(call, p); }
void launch(Call& call, Provider, const RmsNormParams& p) { launch_cpu(call, p); }
void launch(Call& call, Provider, const RotaryEmbeddingParams& p) { launch_cpu(call, p); }

}  // namespace seqexport::ort
