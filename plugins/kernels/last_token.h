/* The last valid token of each row: see last_token.cu. Plain C apart from the function. */
#ifndef SEQEXPORT_KERNELS_LAST_TOKEN_H_
#define SEQEXPORT_KERNELS_LAST_TOKEN_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stdint.h>

#include "dtype.h"

typedef struct LastTokenParams {
  int32_t dtype;           /* SeqexportDataType: T */
  int32_t batch;           /* B */
  int32_t length;          /* L >= 1, tokens in this call */
  int32_t channels;        /* D */
  const void* x;           /* T[B,L,D] */
  const int32_t* seq_lens; /* int32[B], valid tokens of each row */
  void* y;                 /* T[B,D] */
} LastTokenParams;

#if defined(__cplusplus) && !defined(SEQEXPORT_CPU_ONLY)
namespace seqexport {
cudaError_t last_token(const LastTokenParams& p, cudaStream_t stream);
}
#endif

#endif /* SEQEXPORT_KERNELS_LAST_TOKEN_H_ */
