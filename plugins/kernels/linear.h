/* Up to three projections of the same tokens: see linear.cu. Plain C apart from the functions. */
#ifndef SEQEXPORT_KERNELS_LINEAR_H_
#define SEQEXPORT_KERNELS_LINEAR_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stddef.h>
#include <stdint.h>

#include "dtype.h"

typedef struct LinearParams {
  int32_t dtype;         /* SeqexportDataType: T */
  int32_t rows;          /* M, tokens of all rows of the batch */
  int32_t in_features;   /* K */
  int32_t out_features;  /* N */
  int32_t out_features1; /* N1; 0: no second projection */
  int32_t out_features2; /* N2; 0: no third one */
  const void* x;         /* T[M,K] */
  const void* weight;    /* T[N,K] */
  const void* bias;      /* T[N] or NULL */
  const void* weight1;   /* T[N1,K] */
  const void* bias1;     /* T[N1] or NULL */
  const void* weight2;   /* T[N2,K] */
  const void* bias2;     /* T[N2] or NULL */
  void* y;               /* T[M,N] */
  void* y1;              /* T[M,N1] */
  void* y2;              /* T[M,N2] */
  void* workspace;       /* for the products of many tokens, which are faster with it; or NULL */
  size_t workspace_bytes;
} LinearParams;

#ifdef __cplusplus
namespace seqexport {

/* Bytes that cuBLAS takes for itself on sm_90. */
constexpr size_t kLinearWorkspace = size_t(32) << 20;

#ifndef SEQEXPORT_CPU_ONLY

/* cudaErrorSharedObjectInitFailed where cuBLASLt is needed and linear_fault() says that it cannot be had. */
cudaError_t linear(const LinearParams& p, cudaStream_t stream);

/* Bytes with which products of many tokens are as fast as they get; 0 for few. */
size_t linear_workspace(const LinearParams& p);

/* Why products of many tokens cannot be computed, and what to install; empty where they can. */
const char* linear_fault();
#endif

}  // namespace seqexport
#endif

#endif /* SEQEXPORT_KERNELS_LINEAR_H_ */
