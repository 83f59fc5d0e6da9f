// y = x weight^T + bias for up to three weights. A task is a block of features and of rows.
#include "linear.h"

#include "products.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kTaskFeatures = 48, kTaskRows = 96;

}  // namespace

void linear(const LinearParams& p, const Pool& pool) {
  const int row_blocks = blocks_of(p.rows, kTaskRows);
  const int counts[] = {p.out_features, p.out_features1, p.out_features2};
  int64_t blocks = 0, features = 0;
  for (int count : counts) blocks += blocks_of(count, kTaskFeatures), features += count;
  with_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    const auto projection = [&](const void* weight, const void* bias, void* y, int count) {
      return Product<T, T, T>{(const T*)p.x, nullptr, (const T*)weight, (const T*)bias, (T*)y, count, p.in_features};
    };
    const Product<T, T, T> all[] = {projection(p.weight, p.bias, p.y, counts[0]),
                                    projection(p.weight1, p.bias1, p.y1, counts[1]),
                                    projection(p.weight2, p.bias2, p.y2, counts[2])};
    parallel(pool, (size_t)(blocks * row_blocks), p.rows * features * p.in_features / W, [&](size_t task) {
      const int row = task % row_blocks * kTaskRows;
      int i = 0, n = task / row_blocks;
      for (; n >= blocks_of(counts[i], kTaskFeatures); ++i) n -= blocks_of(counts[i], kTaskFeatures);
      const int first = n * kTaskFeatures;
      product(all[i], row, smaller(row + kTaskRows, p.rows), first, smaller(first + kTaskFeatures, counts[i]));
    });
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
