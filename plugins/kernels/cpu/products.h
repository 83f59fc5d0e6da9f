// y = x weight^T + bias. Rows of both factors are contiguous, so that lanes run along K and nothing is packed: a tile
// of rows by features is summed in registers.
#pragma once

#include "simd.h"

namespace seqexport::cpu::SEQEXPORT_ISA {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kProductRows = 4, kProductFeatures = 6;  // of 32 registers
#else
constexpr int kProductRows = 3, kProductFeatures = 4;  // of 16
#endif
constexpr int kRowFeatures = 8;  // of a row alone: enough sums that none waits for itself

template <class X, class T, class Y>
struct Product {
  const X* x;
  const int* x_rows;  // the row of x that each row of y is of; null: its own
  const T *weight, *bias;  // bias may be null
  Y* y;
  int64_t y_stride;  // from a row of y to the next
  int K;

  const X* row(int m) const { return x + (int64_t)(x_rows ? x_rows[m] : m) * K; }
};

// sums += x weight^T for `count` elements of K from k on. Always inline: the sums are registers.
template <int kRows, int kFeatures, class X, class T>
__attribute__((always_inline)) static inline void multiply(Vec (&sums)[kRows][kFeatures], const X* const (&x)[kRows],
                                                           const T* weight, int64_t K, int k, int count) {
  Vec rows[kRows];
  for (int i = 0; i < kRows; ++i) rows[i] = load(x[i] + k, count);
  for (int j = 0; j < kFeatures; ++j) {
    const Vec feature = load(weight + j * K + k, count);
    for (int i = 0; i < kRows; ++i) sums[i][j] += rows[i] * feature;
  }
}

template <int kRows, int kFeatures, class X, class T, class Y>
void product_tile(const Product<X, T, Y>& p, int row, int feature) {
  const int64_t K = p.K;
  const T* weight = p.weight + feature * K;
  const X* x[kRows];
  for (int i = 0; i < kRows; ++i) x[i] = p.row(row + i);
  Vec sums[kRows][kFeatures] = {};
  int k = 0;
  for (; k + W <= K; k += W) multiply(sums, x, weight, K, k, W);
  if (k < K) multiply(sums, x, weight, K, k, p.K - k);

  for (int i = 0; i < kRows; ++i) {
    float totals[kFeatures + W] = {};
    for (int j = 0; j < kFeatures; ++j) totals[j] = sum(sums[i][j]);
    for (int j = 0; j < kFeatures; j += W) {
      const int count = smaller(W, kFeatures - j);
      const Vec bias = p.bias ? load(p.bias + feature + j, count) : zero();
      store(p.y + (row + i) * p.y_stride + feature + j, load(totals + j) + bias, count);
    }
  }
}

template <int kFeatures, class X, class T, class Y>
void product_column(const Product<X, T, Y>& p, int row, int rows, int feature) {
  for (; row + kProductRows <= rows; row += kProductRows) product_tile<kProductRows, kFeatures>(p, row, feature);
  for (; row < rows; ++row) product_tile<1, kFeatures>(p, row, feature);
}

// Features first..end of rows row..rows.
template <class X, class T, class Y>
void product(const Product<X, T, Y>& p, int row, int rows, int first, int end) {
  int n = first;
  for (; rows - row < kProductRows && n + kRowFeatures <= end; n += kRowFeatures) {
    for (int m = row; m < rows; ++m) product_tile<1, kRowFeatures>(p, m, n);
  }
  for (; n + kProductFeatures <= end; n += kProductFeatures) product_column<kProductFeatures>(p, row, rows, n);
  for (; n < end; ++n) product_column<1>(p, row, rows, n);
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
