/* Mamba-2's scan with its state: see ssd_scan.cu. Plain C apart from the functions at the end. */
#ifndef SEQEXPORT_KERNELS_SSD_SCAN_H_
#define SEQEXPORT_KERNELS_SSD_SCAN_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stddef.h>
#include <stdint.h>

#include "dtype.h"

typedef struct SsdScanParams {
  int32_t dtype;           /* SeqexportDataType: T */
  int32_t batch;           /* B */
  int32_t length;          /* L >= 1, tokens in this call */
  int32_t heads;           /* H */
  int32_t head_size;       /* P */
  int32_t states;          /* N, 1 to 256 */
  int32_t groups;          /* G, 1 to H: head h uses group floor(h * G / H) */
  int32_t dt_softplus;     /* 0 or 1 */
  float dt_min;            /* least delta, after softplus; 0: no limit */
  float dt_max;            /* most delta, after softplus; 0: no limit */
  int32_t segments;        /* of time, scanned in parallel; 0: chosen from the sizes and the device */
  int64_t x_stride;        /* elements between tokens of x, >= H * P */
  int64_t dt_stride;       /* the same for dt, >= H */
  int64_t z_stride;        /* the same for z, >= H * P */
  int64_t B_stride;        /* the same for B, >= G * N */
  int64_t C_stride;        /* the same for C, >= G * N */
  const void* x;           /* T[B,L,H,P] */
  const void* dt;          /* T[B,L,H] */
  const float* A;          /* F[H] */
  const void* B;           /* T[B,L,G,N] */
  const void* C;           /* T[B,L,G,N] */
  const float* D;          /* F[H] or NULL */
  const void* z;           /* T[B,L,H,P] or NULL */
  const float* dt_bias;    /* F[H] or NULL */
  const float* past;       /* F[B,H,P,N] */
  const int32_t* seq_lens; /* int32[B], valid tokens of each row, or NULL: all L */
  void* y;                 /* T[B,L,H,P] */
  float* present;          /* F[B,H,P,N]; may be past */
  void* workspace;         /* 16-byte aligned, ssd_scan_workspace() bytes; may be NULL where that is 0 */
  size_t workspace_bytes;  /* any size is correct: with fewer bytes fewer segments run in parallel */
} SsdScanParams;

#if defined(__cplusplus) && !defined(SEQEXPORT_CPU_ONLY)
namespace seqexport {
/* Bytes with which every segment that pays on the current device runs in parallel; reads sizes only, no pointer. */
size_t ssd_scan_workspace(const SsdScanParams& p);
cudaError_t ssd_scan(const SsdScanParams& p, cudaStream_t stream);
}  /* namespace seqexport */
#endif

#endif /* SEQEXPORT_KERNELS_SSD_SCAN_H_ */
