// s = x + residual;   y = s / sqrt(mean(s^2) + epsilon) * weight. Every token is read twice: the caches hold it.
#include "rms_norm.h"

#include "simd.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kBlock = 32 * W;       // channels whose squares are summed in float
constexpr int kTaskElements = 8192;  // of a task, unless one token has more

template <class T, class S>
struct Token {
  const T* x;
  const S* residual;  // or null

  Vec sum(int c, int count) const {
    const Vec s = load(x + c, count);
    return residual ? s + load(residual + c, count) : s;
  }
};

template <class T, class S>
double squares(const Token<T, S>& token, int channels) {
  double total = 0;
  for (int first = 0; first < channels; first += kBlock) {
    const int end = smaller(first + kBlock, channels);
    Vec block = zero();
    for (int c = first; c < end; c += W) {
      const Vec s = token.sum(c, smaller(W, end - c));
      block += s * s;
    }
    for (int lane = 0; lane < W; ++lane) total += block[lane];
  }
  return total;
}

// y may be x, and sum residual: a vector is read before it is written.
template <class T, class S>
void normalise(const RmsNormParams& p, int64_t row) {
  const int D = p.channels;
  const Token<T, S> token{(const T*)p.x + row * D, p.residual ? (const S*)p.residual + row * D : nullptr};
  const float scale = (float)(1 / __builtin_sqrt(squares(token, D) / D + p.epsilon));
  for (int c = 0; c < D; c += W) {
    const int count = smaller(W, D - c);
    const Vec s = token.sum(c, count);
    if (p.sum) store((S*)p.sum + row * D + c, s, count);
    store((T*)p.y + row * D + c, s * scale * load((const T*)p.weight + c, count), count);
  }
}

template <class T, class S>
void run(const RmsNormParams& p, const Pool& pool) {
  const int rows = larger(1, kTaskElements / p.channels);
  parallel(pool, blocks_of(p.rows, rows), (int64_t)p.rows * p.channels * 4, [&](size_t task) {
    const int first = (int)task * rows, end = smaller(first + rows, p.rows);
    for (int row = first; row < end; ++row) normalise<T, S>(p, row);
  });
}

}  // namespace

void rms_norm(const RmsNormParams& p, const Pool& pool) {
  with_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    p.wide ? run<T, float>(p, pool) : run<T, T>(p, pool);
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
