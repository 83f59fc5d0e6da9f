// Mamba-1's selective scan: h = exp(delta A) h + delta B x, y = (C . h + D x) silu(z), token by token in time.
//
// A task is a block of channels of one row and group; lanes are channels. It goes through time in blocks:
//   1. delta, delta x of the block of time, and B and C widened to float, come into the first-level cache;
//   2. for every vector of channels, kStates states at a time, whose h stays in registers, over the block's tokens;
//   3. skip and gate, and y goes out.
// Time itself is not cut among threads: a second pass over the decays would double the work, and rows and channels give
// more tasks than a processor has threads (512 channels are 32 tasks at the narrowest).
//
// A row of one token has its states as lanes, as they lie in memory: turning them there and back, and A, took longer
// than the token.
#include "selective_scan.h"

#include "math.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kTokens = 32, kStates = 4, kMaxStates = 256;
constexpr int kMaxChannels = 64, kMinChannels = 16, kMaxVecs = kMaxChannels / W, kMinTasks = 16;
constexpr float kSafeExponent = 126;

struct Room {
  Vec A[kMaxVecs * kMaxStates], h[kMaxVecs * kMaxStates];  // A times log2 e
  Vec bias[kMaxVecs], D[kMaxVecs], most[kMaxVecs], steepest[kMaxVecs];  // of |delta| in a block, of |A|
  Vec delta[kMaxVecs][kTokens], dx[kMaxVecs][kTokens], sum[kMaxVecs][kTokens];
  float B[kTokens * kMaxStates + W], C[kTokens * kMaxStates + W];
};

template <class T>
class Scan : public InScratch {
 public:
  // Channels first..end of row b, all of group g.
  Scan(const SelectiveScanParams& p, int b, int g, int first, int end)
      : p_(p), b_(b), g_(g), first_(first), end_(end), vecs_(blocks_of(end - first, W)) {}

  void run() {
    const int valid = valid_tokens(p_.seq_lens, b_, p_.length);
    if (g_ >= p_.groups - p_.reverse_groups) start_ = valid - 1, stride_ = -1;
    valid == 1 && p_.states % W == 0 ? step() : scan(valid);
    start_ = 0, stride_ = 1;
    for (int t = valid; t < p_.length; ++t) {
      for (int v = 0; v < vecs_; ++v) store(y(t, v), zero(), count(v));
    }
  }

 private:
  void scan(int valid) {
    read();
    for (int start = 0; start < valid; start += kTokens) {
      const int tokens = smaller(kTokens, valid - start);
      widen(p_.B, p_.B_stride, start, tokens, room_.B);
      widen(p_.C, p_.C_stride, start, tokens, room_.C);
      prepare(start, tokens, valid);
      for (int v = 0; v < vecs_; ++v) {
        const bool safe = all_at_most(room_.most[v] * room_.steepest[v], kSafeExponent);
        safe ? recur<false>(v, tokens) : recur<true>(v, tokens);
      }
      finish(start, tokens);
    }
    write();
  }

  void step() {
    widen(p_.B, p_.B_stride, 0, 1, room_.B);
    widen(p_.C, p_.C_stride, 0, 1, room_.C);
    for (int v = 0; v < vecs_; ++v) {
      const Vec x = input(p_.x, p_.x_stride, 0, v), dt = input(p_.dt, p_.dt_stride, 0, v);
      const Vec biased = p_.dt_bias ? dt + load(p_.dt_bias + channel(v), count(v)) : dt;
      const Vec delta = p_.dt_softplus ? softplus(biased) : biased, dx = delta * x;
      Vec out = zero();
      for (int lane = 0; lane < count(v); ++lane) out[lane] = advance(channel(v) + lane, delta[lane], dx[lane]);
      if (p_.D) out += load(p_.D + channel(v), count(v)) * x;
      if (p_.z) out *= silu(input(p_.z, p_.z_stride, 0, v));
      store(y(0, v), out, count(v));
    }
  }

  // The states of channel c by one token; C . h after it.
  float advance(int c, float delta, float dx) const {
    const int64_t at = (b_ * (int64_t)p_.channels + c) * p_.states;
    Vec total = zero();
    for (int n = 0; n < p_.states; n += W) {
      const Vec A = load(p_.A + (int64_t)c * p_.states + n) * kLog2e;
      const Vec h = exp2_product<true>(all(delta), A) * load(p_.past + at + n) + load(room_.B + n) * dx;
      store(p_.present + at + n, h);
      total += h * load(room_.C + n);
    }
    return sum(total);
  }

  int channel(int v) const { return first_ + v * W; }
  int count(int v) const { return smaller(W, end_ - channel(v)); }
  // Of all rows, the token that is the t-th in the order of the scan.
  int64_t token(int t) const { return (int64_t)b_ * p_.length + start_ + t * stride_; }
  Vec input(const void* base, int64_t stride, int t, int v) const {
    return load((const T*)base + token(t) * stride + channel(v), count(v));
  }
  void prefetch(const void* base, int64_t stride, int t, int v) const {
    __builtin_prefetch((const T*)base + token(t) * stride + channel(v));
  }
  T* y(int t, int v) const { return (T*)p_.y + token(t) * p_.channels + channel(v); }

  void read() {
    const int N = p_.states;
    for (int v = 0; v < vecs_; ++v) {
      Vec *A = room_.A + v * N, *h = room_.h + v * N;
      memset(A, 0, N * sizeof *A);
      memset(h, 0, N * sizeof *h);
      for (int lane = 0; lane < count(v); ++lane) {
        const float* a = p_.A + (int64_t)(channel(v) + lane) * N;
        const float* past = p_.past + (b_ * (int64_t)p_.channels + channel(v) + lane) * N;
        for (int n = 0; n < N; ++n) {
          ((float*)(A + n))[lane] = a[n] * kLog2e;
          ((float*)(h + n))[lane] = past[n];
        }
      }
      Vec steepest = zero();
      for (int n = 0; n < N; ++n) steepest = larger_magnitude(steepest, magnitude(A[n]));
      room_.steepest[v] = steepest;
      room_.bias[v] = p_.dt_bias ? load(p_.dt_bias + channel(v), count(v)) : zero();
      room_.D[v] = p_.D ? load(p_.D + channel(v), count(v)) : zero();
    }
  }

  void write() const {
    const int N = p_.states;
    for (int v = 0; v < vecs_; ++v) {
      for (int lane = 0; lane < count(v); ++lane) {
        float* row = p_.present + (b_ * (int64_t)p_.channels + channel(v) + lane) * N;
        for (int n = 0; n < N; ++n) row[n] = ((const float*)(room_.h + v * N + n))[lane];
      }
    }
  }

  // 1. B or C of the tokens, a row of N floats for each.
  void widen(const void* from, int64_t stride, int start, int tokens, float* to) const {
    const int N = p_.states;
    for (int t = 0; t < tokens; ++t) {
      const T* row = (const T*)from + token(start + t) * stride + (int64_t)g_ * N;
      for (int n = 0; n < N; n += W) store(to + t * N + n, load(row + n, smaller(W, N - n)));
    }
  }

  // Token by token, along which the channels lie; the next block of time is on its way to the cache meanwhile.
  void prepare(int start, int tokens, int valid) {
    for (int v = 0; v < vecs_; ++v) room_.most[v] = zero();
    for (int t = 0; t < tokens; ++t) {
      const int next = smaller(start + t + kTokens, valid - 1);
      for (int v = 0; v < vecs_; ++v) {
        prefetch(p_.x, p_.x_stride, next, v);
        prefetch(p_.dt, p_.dt_stride, next, v);
        if (p_.z) prefetch(p_.z, p_.z_stride, start + t, v);
        const Vec step = input(p_.dt, p_.dt_stride, start + t, v) + room_.bias[v];
        const Vec delta = p_.dt_softplus ? softplus(step) : step;
        room_.delta[v][t] = delta;
        room_.dx[v][t] = delta * input(p_.x, p_.x_stride, start + t, v);
        room_.sum[v][t] = zero();
        room_.most[v] = larger_magnitude(room_.most[v], magnitude(delta));
      }
    }
  }

  // 2.
  template <bool kChecked>
  void recur(int v, int tokens) {
    int n = 0;
    for (; n + kStates <= p_.states; n += kStates) recur<kStates, kChecked>(v, n, tokens);
    for (; n < p_.states; ++n) recur<1, kChecked>(v, n, tokens);
  }

  template <int kCount, bool kChecked>
  __attribute__((always_inline)) void recur(int v, int first, int tokens) {
    const int N = p_.states;
    Vec h[kCount], A[kCount];
    for (int i = 0; i < kCount; ++i) h[i] = room_.h[v * N + first + i], A[i] = room_.A[v * N + first + i];
    for (int t = 0; t < tokens; ++t) {
      const float *B = room_.B + t * N + first, *C = room_.C + t * N + first;
      const Vec delta = room_.delta[v][t], dx = room_.dx[v][t];
      Vec sum = zero();
      for (int i = 0; i < kCount; ++i) {
        h[i] = exp2_product<kChecked>(delta, A[i]) * h[i] + dx * B[i];
        sum += h[i] * C[i];
      }
      room_.sum[v][t] += sum;
    }
    for (int i = 0; i < kCount; ++i) room_.h[v * N + first + i] = h[i];
  }

  // 3.
  void finish(int start, int tokens) const {
    for (int t = 0; t < tokens; ++t) {
      for (int v = 0; v < vecs_; ++v) {
        Vec out = room_.sum[v][t];
        if (p_.D) out += room_.D[v] * input(p_.x, p_.x_stride, start + t, v);
        if (p_.z) out *= silu(input(p_.z, p_.z_stride, start + t, v));
        store(y(start + t, v), out, count(v));
      }
    }
  }

  const SelectiveScanParams& p_;
  const int b_, g_, first_, end_, vecs_;
  int start_ = 0, stride_ = 1;
  Room room_;
};

// The widest block with which there are kMinTasks tasks.
int block_channels(const SelectiveScanParams& p) {
  int width = kMaxChannels;
  while (width > kMinChannels && (int64_t)p.batch * blocks_of(p.channels, width) < kMinTasks) width /= 2;
  return width;
}

}  // namespace

void selective_scan(const SelectiveScanParams& p, const Pool& pool) {
  const int width = block_channels(p), blocks = blocks_of(blocks_of(p.channels, p.groups), width);
  const int64_t work = (int64_t)p.batch * p.length * p.channels * p.states * 8;
  with_type(p.dtype, [&](auto type) {
    parallel(pool, (size_t)p.batch * p.groups * blocks, work, [&](size_t task) {
      const int block = task % blocks, g = task / blocks % p.groups, b = task / blocks / p.groups;
      // The channels d with floor(d G / D) = g.
      const int begin = ((int64_t)g * p.channels + p.groups - 1) / p.groups;
      const int end = ((int64_t)(g + 1) * p.channels + p.groups - 1) / p.groups;
      const int first = begin + block * width;
      if (first < end) (new Scan<decltype(type)>(p, b, g, first, smaller(first + width, end)))->run();
    });
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
