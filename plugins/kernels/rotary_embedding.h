/* Queries and keys turned by their positions: see rotary_embedding.cu. Plain C apart from the function. */
#ifndef SEQEXPORT_KERNELS_ROTARY_EMBEDDING_H_
#define SEQEXPORT_KERNELS_ROTARY_EMBEDDING_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stdint.h>

#include "dtype.h"

typedef struct RotaryEmbeddingParams {
  int32_t dtype;       /* SeqexportDataType: T */
  int32_t rows;        /* M, tokens of all rows of the batch */
  int32_t query_heads; /* Hq */
  int32_t kv_heads;    /* Hkv */
  int32_t head_dim;    /* Dh */
  int32_t rotary_dim;  /* R, even, at most Dh */
  const void* query;   /* T[M,Hq,Dh] */
  const void* key;     /* T[M,Hkv,Dh] */
  const void* cos;     /* T[M,R] */
  const void* sin;     /* T[M,R] */
  void* query_rotated; /* T[M,Hq,Dh]; may be query */
  void* key_rotated;   /* T[M,Hkv,Dh]; may be key */
} RotaryEmbeddingParams;

#if defined(__cplusplus) && !defined(SEQEXPORT_CPU_ONLY)
namespace seqexport {
cudaError_t rotary_embedding(const RotaryEmbeddingParams& p, cudaStream_t stream);
}
#endif

#endif /* SEQEXPORT_KERNELS_ROTARY_EMBEDDING_H_ */
