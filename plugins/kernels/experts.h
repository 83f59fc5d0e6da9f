/* Each token through the experts that its router chose: see experts.cu. Plain C apart from the functions. */
#ifndef SEQEXPORT_KERNELS_EXPERTS_H_
#define SEQEXPORT_KERNELS_EXPERTS_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stddef.h>
#include <stdint.h>

#include "dtype.h"

typedef enum ExpertsActivation {
  SEQEXPORT_SILU = 0,
  SEQEXPORT_GELU = 1,
  SEQEXPORT_GELU_TANH = 2,
  SEQEXPORT_RELU = 3,
  SEQEXPORT_RELU2 = 4
} ExpertsActivation;

typedef struct ExpertsParams {
  int32_t dtype;            /* SeqexportDataType: T */
  int32_t rows;             /* M, tokens of all rows of the batch */
  int32_t channels;         /* D */
  int32_t choices;          /* k, experts of a token */
  int32_t experts;          /* E */
  int32_t gate_up_channels; /* U: 2F where gated, F where not */
  int32_t hidden;           /* F */
  int32_t gated;            /* 0 or 1 */
  int32_t activation;       /* ExpertsActivation */
  const void* x;            /* T[M,D] */
  const int32_t* chosen;    /* int32[M,k]; one outside 0..E-1 contributes nothing */
  const float* weight;      /* F[M,k] */
  const void* gate_up;      /* T[E,U,D] */
  const void* down;         /* T[E,D,F] */
  const void* gate_up_bias; /* T[E,U] or NULL */
  const void* down_bias;    /* T[E,D] or NULL */
  void* y;                  /* T[M,D] */
  void* workspace;          /* 16-byte aligned, experts_workspace() bytes; never NULL */
  size_t workspace_bytes;   /* with fewer bytes fewer tokens at a time, down to experts_token_bytes() */
} ExpertsParams;

#ifdef __cplusplus
namespace seqexport {

/* What the CUDA kernels take. */
constexpr int kExpertsMost = 1024, kExpertsMostChoices = 256;

/* What TensorRT shares among layers: thousands of tokens of most models at a time. */
constexpr size_t kExpertsWorkspace = size_t(128) << 20;

/* Without them one token cannot be computed: the hidden channels of its experts. */
inline size_t experts_token_bytes(const ExpertsParams& p) {
  return size_t(p.choices) * size_t(p.hidden) * sizeof(float);
}

#ifndef SEQEXPORT_CPU_ONLY
/* Bytes with which all tokens, or as many as pay, are computed at a time; reads sizes only, no pointer. */
size_t experts_workspace(const ExpertsParams& p);
cudaError_t experts(const ExpertsParams& p, cudaStream_t stream);
#endif

}  // namespace seqexport
#endif

#endif /* SEQEXPORT_KERNELS_EXPERTS_H_ */
