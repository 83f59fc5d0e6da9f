// y = x weight^T + bias for up to three weights. Rows of both factors are contiguous, so that lanes run along K and
// nothing is packed: a tile of rows by features is summed in registers. A task is a block of features and of rows.
#include "linear.h"

#include "simd.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileRows = 4, kTileFeatures = 6;  // of 32 registers
#else
constexpr int kTileRows = 3, kTileFeatures = 4;  // of 16
#endif
constexpr int kRowFeatures = 8;  // of a row alone: enough sums that none waits for itself
constexpr int kTaskFeatures = 48, kTaskRows = 96;

template <class T>
struct Projection {
  const T *x, *weight, *bias;  // bias may be null
  T* y;
  int K, features;

  Projection(const LinearParams& p, const void* weight, const void* bias, void* y, int features)
      : x((const T*)p.x), weight((const T*)weight), bias((const T*)bias), y((T*)y), K(p.in_features),
        features(features) {}
};

// sums += x weight^T for `count` elements of K. Always inline: the sums are registers.
template <int kRows, int kFeatures, class T>
__attribute__((always_inline)) static inline void multiply(Vec (&sums)[kRows][kFeatures], const T* x, const T* weight,
                                                           int64_t K, int count) {
  Vec rows[kRows];
  for (int i = 0; i < kRows; ++i) rows[i] = load(x + i * K, count);
  for (int j = 0; j < kFeatures; ++j) {
    const Vec feature = load(weight + j * K, count);
    for (int i = 0; i < kRows; ++i) sums[i][j] += rows[i] * feature;
  }
}

template <int kRows, int kFeatures, class T>
void tile(const Projection<T>& p, int64_t row, int64_t feature) {
  const int64_t K = p.K;
  const T *x = p.x + row * K, *weight = p.weight + feature * K;
  Vec sums[kRows][kFeatures] = {};
  int k = 0;
  for (; k + W <= K; k += W) multiply(sums, x + k, weight + k, K, W);
  if (k < K) multiply(sums, x + k, weight + k, K, p.K - k);

  for (int i = 0; i < kRows; ++i) {
    float totals[kFeatures + W] = {};
    for (int j = 0; j < kFeatures; ++j) totals[j] = sum(sums[i][j]);
    for (int j = 0; j < kFeatures; j += W) {
      const int count = smaller(W, kFeatures - j);
      const Vec bias = p.bias ? load(p.bias + feature + j, count) : zero();
      store(p.y + (row + i) * p.features + feature + j, load(totals + j) + bias, count);
    }
  }
}

template <int kFeatures, class T>
void column(const Projection<T>& p, int row, int rows, int feature) {
  for (; row + kTileRows <= rows; row += kTileRows) tile<kTileRows, kFeatures>(p, row, feature);
  for (; row < rows; ++row) tile<1, kFeatures>(p, row, feature);
}

// Features first..end of rows row..rows.
template <class T>
void block(const Projection<T>& p, int row, int rows, int first, int end) {
  int n = first;
  for (; rows - row < kTileRows && n + kRowFeatures <= end; n += kRowFeatures) {
    for (int m = row; m < rows; ++m) tile<1, kRowFeatures>(p, m, n);
  }
  for (; n + kTileFeatures <= end; n += kTileFeatures) column<kTileFeatures>(p, row, rows, n);
  for (; n < end; ++n) column<1>(p, row, rows, n);
}

}  // namespace

void linear(const LinearParams& p, const Pool& pool) {
  const int row_blocks = blocks_of(p.rows, kTaskRows);
  const int counts[] = {p.out_features, p.out_features1, p.out_features2};
  int64_t blocks = 0, features = 0;
  for (int count : counts) blocks += blocks_of(count, kTaskFeatures), features += count;
  with_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    const Projection<T> all[] = {{p, p.weight, p.bias, p.y, p.out_features},
                                 {p, p.weight1, p.bias1, p.y1, p.out_features1},
                                 {p, p.weight2, p.bias2, p.y2, p.out_features2}};
    parallel(pool, (size_t)(blocks * row_blocks), p.rows * features * p.in_features / W, [&](size_t task) {
      const int row = task % row_blocks * kTaskRows;
      const Projection<T>* each = all;
      int n = task / row_blocks;
      for (; n >= blocks_of(each->features, kTaskFeatures); ++each) n -= blocks_of(each->features, kTaskFeatures);
      const int first = n * kTaskFeatures;
      block(*each, row, smaller(row + kTaskRows, p.rows), first, smaller(first + kTaskFeatures, each->features));
    });
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
