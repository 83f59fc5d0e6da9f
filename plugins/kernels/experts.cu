// Few tokens read the weights of the chosen experts once (experts_few.cuh). Of many, the pairs of a token and an expert
// that it chose are sorted by expert (experts_sort.cuh), and each expert's are matrix products, on tensor cores
// (experts_mma.cuh) or without (experts_simt.cuh); as many tokens at a time as the workspace holds.
#include "experts.h"

#include <algorithm>

#include "experts_few.cuh"
#include "experts_mma.cuh"
#include "experts_simt.cuh"

namespace seqexport {
namespace {

constexpr int64_t kMostPairs = int64_t(1) << 20;  // at a time, whose tiles a grid has room for

bool takes_vectors(const ExpertsParams& p) {
  const int bytes = int(seqexport_element_bytes(p.dtype));
  return rows_are_vectors(p.channels, bytes, {p.x, p.gate_up, p.y}) && rows_are_vectors(p.hidden, bytes, {p.down});
}

// Tokens first..first + rows.
ExpertsParams part_of(const ExpertsParams& p, int first, int rows) {
  const int64_t bytes = int64_t(seqexport_element_bytes(p.dtype)) * first * p.channels;
  ExpertsParams part = p;
  part.rows = rows;
  part.x = static_cast<const char*>(p.x) + bytes;
  part.chosen += int64_t(first) * p.choices;
  part.weight += int64_t(first) * p.choices;
  part.y = static_cast<char*>(p.y) + bytes;
  return part;
}

// Parts of the workspace, one after another, at multiples of 16 bytes.
struct Shares {
  char* data;
  size_t used = 0;
  template <typename T>
  T* take(int64_t count) {
    T* const share = reinterpret_cast<T*>(data + used);
    used += (size_t(count) * sizeof(T) + 15) / 16 * 16;
    return share;
  }
};

template <typename T>
ManyPairs<T> many_pairs(const ExpertsParams& p, Shares& shares) {
  const int pairs = p.rows * p.choices;
  ManyPairs<T> many;
  many.sorted.starts = shares.take<int>(p.experts + 1);
  many.sorted.order = shares.take<int>(pairs);
  many.sorted.tiles = shares.take<Tile>(tiles_most(pairs, p.experts));
  many.sorted.tile_count = shares.take<int>(1);
  many.h = shares.take<T>(int64_t(pairs) * p.hidden);
  many.out = shares.take<T>(int64_t(pairs) * p.channels);
  return many;
}

size_t many_bytes(ExpertsParams p, int rows) {
  p.rows = rows;
  Shares shares = {nullptr};
  if (p.dtype == SEQEXPORT_FLOAT32) many_pairs<float>(p, shares);
  else many_pairs<__half>(p, shares);
  return shares.used;
}

int few_tokens(const ExpertsParams& p) {
  return std::min({p.rows, experts_few::kTokensMost, experts_few::kPairsMost / p.choices});
}

// Tokens at a time that a workspace of so many bytes holds, in parts of one size; those of few_tokens() where that is
// hardly more.
int tokens_at_once(const ExpertsParams& p, size_t bytes) {
  const int few = few_tokens(p);
  for (int parts = 1;; ++parts) {
    const int rows = ceil_div(p.rows, parts);
    if (rows <= few) break;
    if (int64_t(rows) * p.choices <= kMostPairs && many_bytes(p, rows) <= bytes) return rows;
  }
  return int(std::min(size_t(few), bytes / experts_token_bytes(p)));
}

template <typename T, ExpertProduct kProduct>
cudaError_t multiply(const ExpertsParams& p, const ManyPairs<T>& many, bool tensor_cores, cudaStream_t stream) {
  const int tiles = tiles_most(p.rows * p.choices, p.experts);
  if constexpr (sizeof(T) == 2) {
    if (tensor_cores) return experts_mma::multiply<T, kProduct>(p, many, tiles, stream);
  }
  return experts_simt::multiply<T, kProduct>(p, many, tiles, stream);
}

template <typename T>
cudaError_t combine(const ExpertsParams& p, const ManyPairs<T>& many, bool vectors, cudaStream_t stream) {
  constexpr int kSize = kVectorSize<T>;
  const int64_t threads = int64_t(p.rows) * (vectors ? p.channels / kSize : p.channels);
  const auto kernel = vectors ? combine_kernel<T, kSize> : combine_kernel<T, 1>;
  return launch(kernel, unsigned((threads + 255) / 256), 256, 0, stream, p, static_cast<const T*>(many.out));
}

template <typename T>
cudaError_t many_tokens(const ExpertsParams& p, bool vectors, cudaStream_t stream) {
  Shares shares = {static_cast<char*>(p.workspace)};
  const ManyPairs<T> many = many_pairs<T>(p, shares);
  const bool tensor_cores = vectors && experts_mma::is_compiled();
  cudaError_t e = sort_pairs(p, many.sorted, stream);
  if (e != cudaSuccess) return e;
  e = p.gated ? multiply<T, ExpertProduct::kGatedUp>(p, many, tensor_cores, stream)
              : multiply<T, ExpertProduct::kUp>(p, many, tensor_cores, stream);
  if (e != cudaSuccess) return e;
  e = multiply<T, ExpertProduct::kDown>(p, many, tensor_cores, stream);
  return e == cudaSuccess ? combine<T>(p, many, vectors, stream) : e;
}

}  // namespace

size_t experts_workspace(const ExpertsParams& p) {
  const int few = few_tokens(p), rows = tokens_at_once(p, kExpertsWorkspace);
  return rows > few ? many_bytes(p, rows) : rows * experts_token_bytes(p);
}

cudaError_t experts(const ExpertsParams& p, cudaStream_t stream) {
  const int few = few_tokens(p), at_once = tokens_at_once(p, p.workspace_bytes);
  if (at_once == 0) return cudaErrorInvalidValue;
  const bool vectors = takes_vectors(p);
  cudaError_t e = cudaSuccess;
  for (int first = 0; first < p.rows && e == cudaSuccess; first += at_once) {
    const ExpertsParams part = part_of(p, first, std::min(at_once, p.rows - first));
    e = with_type(p.dtype, [&](auto zero) {
      using T = decltype(zero);
      return at_once > few ? many_tokens<T>(part, vectors, stream) : experts_few::run<T>(part, vectors, stream);
    });
  }
  return e;
}

}  // namespace seqexport
