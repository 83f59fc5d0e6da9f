// Runs a params struct on a provider: the CPU kernels on the session's threads, the CUDA kernels on its stream.
#pragma once

#include "op.h"

#if SEQEXPORT_CUDA
#include "causal_attention.h"
#include "causal_conv1d.h"
#include "embedding.h"
#include "last_token.h"
#include "linear.h"
#include "rms_norm.h"
#include "rotary_embedding.h"
#include "selective_scan.h"
#endif

#include "kernels.h"

namespace seqexport::ort {

void launch(Call& call, Provider provider, const CausalConv1dParams& p);
void launch(Call& call, Provider provider, SelectiveScanParams& p);
void launch(Call& call, Provider provider, CausalAttentionParams& p);
void launch(Call& call, Provider provider, const EmbeddingParams& p);
void launch(Call& call, Provider provider, const LastTokenParams& p);
void launch(Call& call, Provider provider, LinearParams& p);
void launch(Call& call, Provider provider, const RmsNormParams& p);
void launch(Call& call, Provider provider, const RotaryEmbeddingParams& p);

}  // namespace seqexport::ort
