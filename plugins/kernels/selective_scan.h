/* Mamba-1 selective scan with its state: see selective_scan.cu. Plain C apart from the functions at the end. */
#ifndef SEQEXPORT_KERNELS_SELECTIVE_SCAN_H_
#define SEQEXPORT_KERNELS_SELECTIVE_SCAN_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stddef.h>
#include <stdint.h>

#include "dtype.h"

typedef struct SelectiveScanParams {
  int32_t dtype;           /* SeqexportDataType: T */
  int32_t batch;           /* B */
  int32_t length;          /* L >= 1, tokens in this call */
  int32_t channels;        /* D */
  int32_t states;          /* N, 1 to 256 */
  int32_t groups;          /* G, 1 to D: channel d uses group floor(d * G / D) */
  int32_t dt_softplus;     /* 0 or 1 */
  int32_t reverse_groups;  /* the last so many groups, or all, run from the last valid token to the first */
  int32_t chunks;          /* time chunks scanned in parallel; 0: chosen from the sizes and the device */
  int64_t x_stride;        /* elements between tokens of x, >= D */
  int64_t dt_stride;       /* the same for dt */
  int64_t z_stride;        /* the same for z */
  int64_t B_stride;        /* elements between tokens of B, >= G * N */
  int64_t C_stride;        /* the same for C */
  const void* x;           /* T[B,L,D] */
  const void* dt;          /* T[B,L,D] */
  const float* A;          /* F[D,N] */
  const void* B;           /* T[B,L,G,N] */
  const void* C;           /* T[B,L,G,N] */
  const float* D;          /* F[D] or NULL */
  const void* z;           /* T[B,L,D] or NULL */
  const float* dt_bias;    /* F[D] or NULL */
  const float* past;       /* F[B,D,N] */
  const int32_t* seq_lens; /* int32[B], valid tokens of each row, or NULL: all L */
  void* y;                 /* T[B,L,D] */
  float* present;          /* F[B,D,N]; may be past */
  void* workspace;         /* 16-byte aligned, selective_scan_workspace() bytes; may be NULL where that is 0 */
  size_t workspace_bytes;  /* any size is correct: with fewer bytes fewer chunks run in parallel */
} SelectiveScanParams;

#if defined(__cplusplus) && !defined(SEQEXPORT_CPU_ONLY)
namespace seqexport {
/* Bytes with which every chunk that pays on the current device runs in parallel; reads sizes only, no pointer. */
size_t selective_scan_workspace(const SelectiveScanParams& p);
cudaError_t selective_scan(const SelectiveScanParams& p, cudaStream_t stream);
}  /* namespace seqexport */
#endif

#endif /* SEQEXPORT_KERNELS_SELECTIVE_SCAN_H_ */
