/* A row of a table for each token: see embedding.cu. Plain C apart from the function. */
#ifndef SEQEXPORT_KERNELS_EMBEDDING_H_
#define SEQEXPORT_KERNELS_EMBEDDING_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stdint.h>

#include "dtype.h"

typedef struct EmbeddingParams {
  int32_t dtype;      /* SeqexportDataType: T */
  int32_t rows;       /* M, tokens of all rows of the batch */
  int32_t vocab;      /* V */
  int32_t channels;   /* D */
  const void* weight; /* T[V,D] */
  const int32_t* ids; /* int32[M]; one outside the table gives zeros */
  void* y;            /* T[M,D] */
} EmbeddingParams;

#if defined(__cplusplus) && !defined(SEQEXPORT_CPU_ONLY)
namespace seqexport {
cudaError_t embedding(const EmbeddingParams& p, cudaStream_t stream);
}
#endif

#endif /* SEQEXPORT_KERNELS_EMBEDDING_H_ */
