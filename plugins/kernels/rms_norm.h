/* A gated sum with the residual stream and its root mean square norm: see rms_norm.cu. Plain C apart from the
 * function. */
#ifndef SEQEXPORT_KERNELS_RMS_NORM_H_
#define SEQEXPORT_KERNELS_RMS_NORM_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stdint.h>

#include "dtype.h"

typedef struct RmsNormParams {
  int32_t dtype;            /* SeqexportDataType: T */
  int32_t rows;             /* M, tokens of all rows of the batch */
  int32_t channels;         /* D */
  int32_t groups;           /* of neighbouring channels, each with a mean of its own; divides D */
  int32_t norm_before_gate; /* silu(z) multiplies y if 1, else x */
  int32_t wide;             /* S is float32 if 1, else T */
  float epsilon;
  int64_t z_stride;         /* elements between tokens of z, >= D */
  const void* x;            /* T[M,D] */
  const void* weight;       /* T[D] */
  const void* residual;     /* S[M,D] or NULL */
  const void* z;            /* T[M,D] or NULL: no gate */
  void* y;                  /* T[M,D]; may be x */
  void* sum;                /* S[M,D] or NULL: not wanted; may be residual */
} RmsNormParams;

#if defined(__cplusplus) && !defined(SEQEXPORT_CPU_ONLY)
namespace seqexport {
cudaError_t rms_norm(const RmsNormParams& p, cudaStream_t stream);
}
#endif

#endif /* SEQEXPORT_KERNELS_RMS_NORM_H_ */
