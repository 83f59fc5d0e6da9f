// The three ways causal_attention.cu computes; each writes y, or split results for `combine`, and the new cache rows.
#pragma once

#include "causal_attention_common.cuh"

namespace seqexport {

// fp16 and bf16 on sm_80 and later, dims and strides in whole 16-byte vectors.
cudaError_t causal_attention_prefill(const CausalAttentionParams& p, cudaStream_t stream);
// The same types and layouts, few queries; `results.splits` 1 writes y.
cudaError_t causal_attention_decode(const CausalAttentionParams& p, const SplitResults& results, cudaStream_t stream);
// Any type, layout and device, on the fp32 units; `results.splits` 1 writes y.
cudaError_t causal_attention_simt(const CausalAttentionParams& p, const SplitResults& results, cudaStream_t stream);

// Whether the tensor-core kernels were compiled for an architecture that has the instructions.
bool causal_attention_has_tensor_cores();

constexpr size_t kTensorCoreBytes = 78 * 1024;  // shared memory of the largest block with tensor cores
constexpr int kPackedRows = 16;  // (token, head of the group) rows a block of decode or simt takes

}  // namespace seqexport
