// Depthwise causal convolution: y[t] = act(bias + sum_j weight[j] xx[t + j]), xx = past followed by x.
//
// A task is a block of channels and a block of time, of one row or, where tokens are few, of several, which then share
// the work of turning the weights. The first block of time of a row also writes the state,
// so that the state is read and written by one task, and may be the same memory.
#include "causal_conv1d.h"

#include "math.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kChannels = 16 * W, kVecs = kChannels / W, kTokens = 256, kMaxTaps = 64, kRows = 8, kFewTokens = 4;

// One vector of channels: `count` of them from channel c of row b.
template <class T>
struct Columns {
  const CausalConv1dParams& p;
  int b, c, count;

  const T* x(int t) const { return (const T*)p.x + ((int64_t)b * p.length + t) * p.x_stride + c; }
  T* y(int t) const { return (T*)p.y + ((int64_t)b * p.length + t) * p.channels + c; }
  // xx at i, which counts from the oldest of the state.
  Vec input(int i) const {
    const int old = p.kernel_size - 1;
    if (i >= old) return load(x(i - old), count);
    T column[W] = {};
    for (int lane = 0; lane < count; ++lane) {
      column[lane] = ((const T*)p.past)[((int64_t)b * p.channels + c + lane) * old + i];
    }
    return load(column);
  }
};

// The weights of a block of channels, a vector of channels for each tap.
template <class T>
struct Weights : InScratch {
  Vec taps[kMaxTaps][kVecs], bias[kVecs];

  Weights(const CausalConv1dParams& p, int first, int vecs) {
    for (int v = 0; v < vecs; ++v) {
      const int c = first + v * W, count = smaller(W, p.channels - c);
      for (int j = 0; j < p.kernel_size; ++j) {
        T column[W] = {};
        for (int lane = 0; lane < count; ++lane) {
          column[lane] = ((const T*)p.weight)[(int64_t)(c + lane) * p.kernel_size + j];
        }
        taps[j][v] = load(column);
      }
      bias[v] = p.bias ? load((const T*)p.bias + c, count) : zero();
    }
  }
};

template <class T>
void write_state(const Columns<T>& at, int valid) {
  const CausalConv1dParams& p = at.p;
  const int old = p.kernel_size - 1;
  T columns[kMaxTaps][W];
  for (int i = 0; i < old; ++i) store(columns[i], at.input(valid + i));
  for (int lane = 0; lane < at.count; ++lane) {
    T* row = (T*)p.present + ((int64_t)at.b * p.channels + at.c + lane) * old;
    for (int i = 0; i < old; ++i) row[i] = columns[i][lane];
  }
}

// Tokens from..to of a row, token by token along the block's channels: the inputs of one token are next to each other.
template <class T, bool kSilu>
void convolve(
    const CausalConv1dParams& p, const Weights<T>& weights, int b, int first, int vecs, int from, int to, int valid) {
  const int K = p.kernel_size, old = K - 1, end = smaller(to, valid);
  for (int t = from; t < to; ++t) {
    for (int v = 0; v < vecs; ++v) {
      const int c = first + v * W;
      const Columns<T> at{p, b, c, smaller(W, p.channels - c)};
      Vec sum = weights.bias[v];
      if (t < end && t >= old) {
        const T* x = at.x(t - old);
        for (int j = 0; j < K; ++j) sum += weights.taps[j][v] * load(x + j * p.x_stride, at.count);
      } else if (t < end) {
        for (int j = 0; j < K; ++j) sum += weights.taps[j][v] * at.input(t + j);
      }
      store(at.y(t), t >= end ? zero() : kSilu ? silu(sum) : sum, at.count);
    }
  }
}

}  // namespace

void causal_conv1d(const CausalConv1dParams& p, const Pool& pool) {
  const int channel_blocks = blocks_of(p.channels, kChannels), time_blocks = blocks_of(p.length, kTokens);
  const int rows = p.length <= kFewTokens ? kRows : 1;
  const int64_t work = (int64_t)p.batch * p.length * p.channels * (p.kernel_size + 8);
  with_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    parallel(pool, (size_t)blocks_of(p.batch, rows) * time_blocks * channel_blocks, work, [&](size_t task) {
      const int block = task % channel_blocks, time = task / channel_blocks % time_blocks;
      const int row = task / channel_blocks / time_blocks * rows;
      const int from = time * kTokens, to = smaller(from + kTokens, p.length);
      const int first = block * kChannels, vecs = smaller(kVecs, blocks_of(p.channels - first, W));
      const Weights<T>& weights = *new Weights<T>(p, first, vecs);
      for (int b = row; b < smaller(row + rows, p.batch); ++b) {
        const int valid = valid_tokens(p.seq_lens, b, p.length);
        p.activation == SEQEXPORT_ACTIVATION_SILU ? convolve<T, true>(p, weights, b, first, vecs, from, to, valid)
                                                  : convolve<T, false>(p, weights, b, first, vecs, from, to, valid);
        for (int v = 0; time == 0 && v < vecs; ++v) {
          const int c = first + v * W;
          write_state(Columns<T>{p, b, c, smaller(W, p.channels - c)}, valid);
        }
      }
    });
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
