/* Causal attention over a KV cache: see causal_attention.cu. Plain C apart from the functions at the end. */
#ifndef SEQEXPORT_KERNELS_CAUSAL_ATTENTION_H_
#define SEQEXPORT_KERNELS_CAUSAL_ATTENTION_H_

#ifndef SEQEXPORT_CPU_ONLY
#include <cuda_runtime.h>
#endif
#include <stddef.h>
#include <stdint.h>

#include "dtype.h"

typedef struct CausalAttentionParams {
  int32_t dtype;            /* SeqexportDataType: T */
  int32_t batch;            /* B */
  int32_t length;           /* L >= 1, tokens in this call */
  int32_t query_heads;      /* Hq, a multiple of Hkv: query head h reads kv head h / (Hq / Hkv) */
  int32_t kv_heads;         /* Hkv */
  int32_t key_dim;          /* Dh, 1 to 256 */
  int32_t value_dim;        /* Dv, 1 to 256 */
  int32_t capacity;         /* S, rows of the cache */
  int32_t window;           /* keys a query sees, itself included; 0: all */
  int32_t splits;           /* key ranges attended in parallel; 0: chosen from the sizes and the device */
  float scale;              /* of query . key */
  float softcap;            /* scores become softcap * tanh(score / softcap); 0: as they are */
  int64_t query_stride;     /* elements between tokens of query, >= Hq * Dh */
  int64_t key_stride;       /* elements between tokens of key, >= Hkv * Dh */
  int64_t value_stride;     /* elements between tokens of value, >= Hkv * Dv */
  const void* query;        /* T[B,L,Hq,Dh] */
  const void* key;          /* T[B,L,Hkv,Dh] */
  const void* value;        /* T[B,L,Hkv,Dv] */
  const void* past_key;     /* T[B,Hkv,S,Dh] */
  const void* past_value;   /* T[B,Hkv,S,Dv] */
  const int32_t* past_lens; /* int32[B], rows of the cache in use before this call, 0 to S */
  const int32_t* seq_lens;  /* int32[B], valid tokens of each row, or NULL: all L */
  void* y;                  /* T[B,L,Hq,Dv] */
  void* present_key;        /* T[B,Hkv,S,Dh]; may be past_key, else the cache is copied first */
  void* present_value;      /* T[B,Hkv,S,Dv]; may be past_value */
  void* workspace;          /* 16-byte aligned, causal_attention_workspace() bytes; may be NULL where that is 0 */
  size_t workspace_bytes;   /* any size is correct: with fewer bytes fewer splits run in parallel */
} CausalAttentionParams;

#if defined(__cplusplus) && !defined(SEQEXPORT_CPU_ONLY)
namespace seqexport {
/* Bytes with which every split that pays on the current device runs in parallel; reads sizes and alignments only. */
size_t causal_attention_workspace(const CausalAttentionParams& p);
cudaError_t causal_attention(const CausalAttentionParams& p, cudaStream_t stream);
}  /* namespace seqexport */
#endif

#endif /* SEQEXPORT_KERNELS_CAUSAL_ATTENTION_H_ */
