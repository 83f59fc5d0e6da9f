// s = x silu(z) + residual;   y = s / sqrt(mean(s^2) + epsilon) * weight. Every token is read twice: the caches hold it.
#include "rms_norm.h"

#include "math.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kBlock = 32 * W;       // channels whose squares are summed in float
constexpr int kTaskElements = 8192;  // of a task, unless one token has more

// One group of channels of a token; absent tensors are null.
template <class T, class S>
struct Group {
  const T *x, *weight, *z;
  const S* residual;
  T* y;
  S* sum;

  Group(const RmsNormParams& p, int64_t row, int group) {
    const int first = p.channels / p.groups * group;
    const int64_t at = row * p.channels + first;
    x = (const T*)p.x + at, y = (T*)p.y + at, weight = (const T*)p.weight + first;
    z = p.z ? (const T*)p.z + row * p.z_stride + first : nullptr;
    residual = p.residual ? (const S*)p.residual + at : nullptr;
    sum = p.sum ? (S*)p.sum + at : nullptr;
  }
  Vec gate(int c, int count) const { return silu(load(z + c, count)); }
  Vec total(int c, int count, bool gates_x) const {
    Vec s = load(x + c, count);
    if (gates_x) s *= gate(c, count);
    return residual ? s + load(residual + c, count) : s;
  }
};

template <class T, class S>
double squares(const Group<T, S>& group, int channels, bool gates_x) {
  double total = 0;
  for (int first = 0; first < channels; first += kBlock) {
    const int end = smaller(first + kBlock, channels);
    Vec block = zero();
    for (int c = first; c < end; c += W) {
      const Vec s = group.total(c, smaller(W, end - c), gates_x);
      block += s * s;
    }
    for (int lane = 0; lane < W; ++lane) total += block[lane];
  }
  return total;
}

// y may be x, and sum residual: a vector is read before it is written.
template <class T, class S>
void normalise(const RmsNormParams& p, const Group<T, S>& group) {
  const int channels = p.channels / p.groups;
  const bool gates_x = p.z && !p.norm_before_gate, gates_y = p.z && p.norm_before_gate;
  const float scale = (float)(1 / __builtin_sqrt(squares(group, channels, gates_x) / channels + p.epsilon));
  for (int c = 0; c < channels; c += W) {
    const int count = smaller(W, channels - c);
    const Vec s = group.total(c, count, gates_x);
    Vec y = s * scale * load(group.weight + c, count);
    if (gates_y) y *= group.gate(c, count);
    if (group.sum) store(group.sum + c, s, count);
    store(group.y + c, y, count);
  }
}

template <class T, class S>
void run(const RmsNormParams& p, const Pool& pool) {
  const int rows = larger(1, kTaskElements / p.channels);
  parallel(pool, blocks_of(p.rows, rows), (int64_t)p.rows * p.channels * (p.z ? 16 : 4), [&](size_t task) {
    const int first = (int)task * rows, end = smaller(first + rows, p.rows);
    for (int row = first; row < end; ++row) {
      for (int group = 0; group < p.groups; ++group) normalise<T, S>(p, Group<T, S>(p, row, group));
    }
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
