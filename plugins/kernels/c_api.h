/* libseqexport_kernels.so: the kernels behind a plain C interface, for ctypes and for hosts of another C++ ABI.
 *
 * Every call checks its arguments on the host, launches on `stream` (a cudaStream_t) and returns without waiting.
 * 0 is success; otherwise seqexport_last_error() says what was wrong, what was expected and what came.
 * Pointers are device pointers; tensors are contiguous but for the strides that the params name. */
#ifndef SEQEXPORT_KERNELS_C_API_H_
#define SEQEXPORT_KERNELS_C_API_H_

#include "causal_attention.h"
#include "causal_conv1d.h"
#include "selective_scan.h"

#if defined(_WIN32)
#define SEQEXPORT_API __declspec(dllexport)
#else
#define SEQEXPORT_API __attribute__((visibility("default")))
#endif

#define SEQEXPORT_KERNELS_ABI 1

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

#ifdef __cplusplus
}
#endif

#endif /* SEQEXPORT_KERNELS_C_API_H_ */
