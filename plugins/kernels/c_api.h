/* libseqexport_kernels.so: the kernels behind a plain C interface, for ctypes and for hosts of another C++ ABI.
 *
 * For each op of op_list.h, of which <stem>.h has the params:
 *
 *   int seqexport_<stem>(const <Params>* params, void* stream);
 *   size_t seqexport_<stem>_workspace(const <Params>* params);
 *
 * The first checks its arguments on the host, launches on `stream` (a cudaStream_t) and returns without waiting. 0 is
 * success; 1 refuses the arguments, and 2 is CUDA's refusal, or that Linear finds no cuBLASLt on the library path for
 * more than a few tokens: seqexport_last_error() says what was wrong, what was expected and what came. The second gives
 * the bytes of workspace for the sizes in `params` (pointers are not read); 0 where the op has none, or the sizes are
 * refused. Pointers are device pointers; tensors are contiguous but for the strides that the params name. */
#ifndef SEQEXPORT_KERNELS_C_API_H_
#define SEQEXPORT_KERNELS_C_API_H_

#include <stddef.h>

#include "op_list.h"

#if defined(_WIN32)
#define SEQEXPORT_API __declspec(dllexport)
#else
#define SEQEXPORT_API __attribute__((visibility("default")))
#endif

#define SEQEXPORT_KERNELS_ABI 4

#ifdef __cplusplus
extern "C" {
#endif

/* SEQEXPORT_KERNELS_ABI of the library: it changes whenever a params struct or this interface does. */
SEQEXPORT_API int seqexport_kernels_abi(void);
/* Why this thread's last call failed; valid until its next call. */
SEQEXPORT_API const char* seqexport_last_error(void);
/* JSON: every op with its sizes, tensors and attributes, and the fields of its params struct. */
SEQEXPORT_API const char* seqexport_ops_description(void);

#define SEQEXPORT_OP(stem, Params, cuda, cpu)                                    \
  struct Params;                                                                 \
  SEQEXPORT_API int seqexport_##stem(const struct Params* params, void* stream); \
  SEQEXPORT_API size_t seqexport_##stem##_workspace(const struct Params* params);
SEQEXPORT_OPS(SEQEXPORT_OP)
#undef SEQEXPORT_OP

#ifdef __cplusplus
}
#endif

#endif /* SEQEXPORT_KERNELS_C_API_H_ */
