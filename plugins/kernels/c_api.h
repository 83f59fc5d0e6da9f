/* libseqexport_kernels.so: the kernels behind a plain C interface, for ctypes and for hosts of another C++ ABI.
 *
 * Every call checks its arguments on the host, launches on `stream` (a cudaStream_t) and returns without waiting.
 * 0 is success; otherwise seqexport_last_error() says what was wrong, what was expected and what came.
 * Pointers are device pointers; tensors are contiguous but for the strides that the params name. */
#ifndef SEQEXPORT_KERNELS_C_API_H_
#define SEQEXPORT_KERNELS_C_API_H_

#include "causal_attention.h"
#include "causal_conv1d.h"
#include "embedding.h"
#include "last_token.h"
#include "linear.h"
#include "rms_norm.h"
#include "rotary_embedding.h"
#include "selective_scan.h"

#if defined(_WIN32)
#define SEQEXPORT_API __declspec(dllexport)
#else
#define SEQEXPORT_API __attribute__((visibility("default")))
#endif

#define SEQEXPORT_KERNELS_ABI 2

#ifdef __cplusplus
extern "C" {
#endif

/* SEQEXPORT_KERNELS_ABI of the library: it changes whenever a params struct does. */
SEQEXPORT_API int seqexport_kernels_abi(void);
/* Why this thread's last call failed; valid until its next call. */
SEQEXPORT_API const char* seqexport_last_error(void);

SEQEXPORT_API int seqexport_causal_conv1d(const CausalConv1dParams* params, void* stream);

/* Bytes of workspace for the sizes in `params` (pointers are not read); 0 also where the sizes are refused. */
SEQEXPORT_API size_t seqexport_selective_scan_workspace(const SelectiveScanParams* params);
SEQEXPORT_API int seqexport_selective_scan(const SelectiveScanParams* params, void* stream);

SEQEXPORT_API size_t seqexport_causal_attention_workspace(const CausalAttentionParams* params);
SEQEXPORT_API int seqexport_causal_attention(const CausalAttentionParams* params, void* stream);

/* 2 (see seqexport_last_error) where there are more than a few tokens and no cuBLASLt is on the library path. */
SEQEXPORT_API size_t seqexport_linear_workspace(const LinearParams* params);
SEQEXPORT_API int seqexport_linear(const LinearParams* params, void* stream);

SEQEXPORT_API int seqexport_embedding(const EmbeddingParams* params, void* stream);

SEQEXPORT_API int seqexport_last_token(const LastTokenParams* params, void* stream);

SEQEXPORT_API int seqexport_rms_norm(const RmsNormParams* params, void* stream);

SEQEXPORT_API int seqexport_rotary_embedding(const RotaryEmbeddingParams* params, void* stream);

#ifdef __cplusplus
}
#endif

#endif /* SEQEXPORT_KERNELS_C_API_H_ */
