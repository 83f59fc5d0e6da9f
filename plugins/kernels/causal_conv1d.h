/* Depthwise causal convolution with its state: see causal_conv1d.cu. Plain C apart from the launch function. */
#ifndef SEQEXPORT_KERNELS_CAUSAL_CONV1D_H_
#define SEQEXPORT_KERNELS_CAUSAL_CONV1D_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stdint.h>

#include "dtype.h"

enum SeqexportActivation { SEQEXPORT_ACTIVATION_NONE = 0, SEQEXPORT_ACTIVATION_SILU = 1 };

typedef struct CausalConv1dParams {
  int32_t dtype;           /* SeqexportDataType: T */
  int32_t batch;           /* B */
  int32_t length;          /* L >= 1, tokens in this call */
  int32_t channels;        /* D */
  int32_t kernel_size;     /* K, 2 to 8 */
  int32_t activation;      /* SeqexportActivation */
  int64_t x_stride;        /* elements between tokens of x, >= D; a row of the batch is L tokens */
  const void* x;           /* T[B,L,D] */
  const void* weight;      /* T[D,K] */
  const void* bias;        /* T[D] or NULL */
  const void* past;        /* T[B,D,K-1] */
  const int32_t* seq_lens; /* int32[B], valid tokens of each row, or NULL: all L */
  void* y;                 /* T[B,L,D] */
  void* present;           /* T[B,D,K-1]; may be past */
} CausalConv1dParams;

#if defined(__cplusplus) && !defined(SEQEXPORT_CPU_ONLY)
namespace seqexport {
cudaError_t causal_conv1d(const CausalConv1dParams& p, cudaStream_t stream);
}
#endif

#endif /* SEQEXPORT_KERNELS_CAUSAL_CONV1D_H_ */
