/* The experts that each token's scores choose: see top_k_router.cu. Plain C apart from the function. */
#ifndef SEQEXPORT_KERNELS_TOP_K_ROUTER_H_
#define SEQEXPORT_KERNELS_TOP_K_ROUTER_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stdint.h>

#include "dtype.h"

typedef enum TopKRouterScore { SEQEXPORT_SOFTMAX = 0, SEQEXPORT_SIGMOID = 1 } TopKRouterScore;

typedef struct TopKRouterParams {
  int32_t dtype;        /* SeqexportDataType: T */
  int32_t rows;         /* M, tokens of all rows of the batch */
  int32_t experts;      /* E */
  int32_t k;            /* experts of a token, at most those of the kept groups */
  int32_t score;        /* TopKRouterScore */
  int32_t normalised;   /* 1: a token's weights are divided by their sum and epsilon */
  int32_t groups;       /* G, of neighbouring experts; divides E */
  int32_t kept_groups;  /* that a token may choose from, at most G */
  float epsilon;
  float scale;          /* of the weights, after all else */
  const void* logits;   /* T[M,E] */
  const float* bias;    /* F[E] or NULL: is added to the scores where they are compared */
  int32_t* chosen;      /* int32[M,k] */
  float* weight;        /* F[M,k] */
} TopKRouterParams;

#if defined(__cplusplus) && !defined(SEQEXPORT_CPU_ONLY)
namespace seqexport {
cudaError_t top_k_router(const TopKRouterParams& p, cudaStream_t stream);
}
#endif

#endif /* SEQEXPORT_KERNELS_TOP_K_ROUTER_H_ */
