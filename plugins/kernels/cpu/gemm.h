// c[M,N] += a[M,K] b[K,N] on tiles that the caches hold; a's elements are broadcast, lanes run along N.
#pragma once

#include "simd.h"

namespace seqexport::cpu::SEQEXPORT_ISA {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileRows = 6, kTileVecs = 4;  // of 32 registers
#else
constexpr int kTileRows = 6, kTileVecs = 2;  // of 16
#endif
constexpr int kRowVecs = 64 / W;  // of a row alone: enough sums that none waits for itself

template <int kRows, int kVecs>
static inline void gemm_tile(int K, const float* a, int lda, const float* b, int ldb, float* c, int ldc) {
  Vec sum[kRows][kVecs];
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVecs; ++j) sum[i][j] = load(c + i * ldc + j * W);
  }
  for (int k = 0; k < K; ++k) {
    Vec row[kVecs];
    for (int j = 0; j < kVecs; ++j) row[j] = load(b + k * ldb + j * W);
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kVecs; ++j) sum[i][j] += row[j] * a[i * lda + k];
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVecs; ++j) store(c + i * ldc + j * W, sum[i][j]);
  }
}

// Rows of b and c hold a multiple of W elements.
static inline void gemm(int M, int N, int K, const float* a, int lda, const float* b, int ldb, float* c, int ldc) {
  const int tiled = M / kTileRows * kTileRows;
  int j = 0;
  for (; tiled > 0 && j + kTileVecs * W <= N; j += kTileVecs * W) {
    for (int i = 0; i < tiled; i += kTileRows) {
      gemm_tile<kTileRows, kTileVecs>(K, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
    }
  }
  for (; j < N; j += W) {
    for (int i = 0; i < tiled; i += kTileRows) {
      gemm_tile<kTileRows, 1>(K, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
    }
  }
  for (int i = tiled; i < M; ++i) {
    for (j = 0; j + kRowVecs * W <= N; j += kRowVecs * W) {
      gemm_tile<1, kRowVecs>(K, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
    }
    for (; j < N; j += W) gemm_tile<1, 1>(K, a + i * lda, lda, b + j, ldb, c + i * ldc + j, ldc);
  }
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
