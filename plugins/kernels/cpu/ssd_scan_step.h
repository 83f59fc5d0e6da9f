// SsdScan token by token, on the state as it lies in memory: lanes are states.
#pragma once

#include "math.h"
#include "ssd_scan.h"

namespace seqexport::cpu::SEQEXPORT_ISA {

constexpr int kSsdTokens = 48, kSsdColumns = 128, kSsdStates = 256;  // of a chunk, of a unit, the most of a channel

// Channels first..end of a head, at most kSsdColumns.
struct SsdUnit {
  int head, first, end;
};

// Units of row b whose heads are of group g.
template <class T>
class SsdSteps {
 public:
  SsdSteps(const SsdScanParams& p, int b, int g) : p_(p), b_(b), g_(g) {}

  // All tokens of the call.
  void run(const SsdUnit& u, int valid) {
    const size_t bytes = (u.end - u.first) * p_.states * sizeof(float);
    if (p_.past != p_.present) memcpy(present(u), p_.past + (present(u) - p_.present), bytes);
    for (int start = 0; start < valid; start += kSsdTokens) {
      const int tokens = smaller(kSsdTokens, valid - start);
      prepare(u, start, tokens);
      steps(u, start, tokens);
    }
  }

  void clear(const SsdUnit& u, int from) const {
    for (int t = from; t < p_.length; ++t) memset(y(u, t), 0, (u.end - u.first) * sizeof(T));
  }

 protected:
  int64_t token(int t) const { return (int64_t)b_ * p_.length + t; }
  int64_t channel(const SsdUnit& u) const { return (int64_t)u.head * p_.head_size + u.first; }
  const T* x(const SsdUnit& u, int t) const { return (const T*)p_.x + token(t) * p_.x_stride + channel(u); }
  const T* z(const SsdUnit& u, int t) const { return (const T*)p_.z + token(t) * p_.z_stride + channel(u); }
  T* y(const SsdUnit& u, int t) const {
    return (T*)p_.y + token(t) * p_.heads * p_.head_size + channel(u);
  }
  float* present(const SsdUnit& u) const {
    return p_.present + ((int64_t)b_ * p_.heads * p_.head_size + channel(u)) * p_.states;
  }

  // B or C of a token; its last vector is filled up with zeros.
  void widen(const void* from, int64_t stride, int t, float* to) const {
    const T* row = (const T*)from + token(t) * stride + (int64_t)g_ * p_.states;
    for (int n = 0; n < p_.states; n += W) store(to + n, load(row + n, smaller(W, p_.states - n)));
  }

  // delta_ and decay_ of tokens from start on, lanes being tokens.
  void prepare(const SsdUnit& u, int start, int tokens) {
    for (int t = 0; t < tokens; t += W) {
      Vec delta = zero();
      for (int lane = 0; lane < smaller(W, tokens - t); ++lane) {
        delta[lane] = load((const T*)p_.dt + token(start + t + lane) * p_.dt_stride + u.head, 1)[0];
      }
      if (p_.dt_bias) delta += p_.dt_bias[u.head];
      if (p_.dt_softplus) delta = softplus(delta);
      if (p_.dt_min > 0) delta = choose(delta < p_.dt_min, all(p_.dt_min), delta);
      if (p_.dt_max > 0) delta = choose(delta > p_.dt_max, all(p_.dt_max), delta);
      store(delta_ + t, delta);
      store(decay_ + t, exp(delta * p_.A[u.head]));
    }
  }

  // The tokens that were prepared.
  void steps(const SsdUnit& u, int start, int tokens) {
    for (int t = 0; t < tokens; ++t) {
      widen(p_.B, p_.B_stride, start + t, B_);
      widen(p_.C, p_.C_stride, start + t, C_);
      const T* at = x(u, start + t);
      for (int c = 0; c < u.end - u.first; c += W) {
        const int count = smaller(W, u.end - u.first - c);
        const Vec dx = load(at + c, count) * delta_[t];
        Vec out = zero();
        for (int i = 0; i < count; ++i) out[i] = step(present(u) + (int64_t)(c + i) * p_.states, decay_[t], dx[i]);
        finish(u, start + t, c, out);
      }
    }
  }

  // Skip and gate of W channels from c on.
  void finish(const SsdUnit& u, int t, int c, Vec out) const {
    const int count = smaller(W, u.end - u.first - c);
    if (p_.D) out += load(x(u, t) + c, count) * p_.D[u.head];
    if (p_.z) out *= silu(load(z(u, t) + c, count));
    store(y(u, t) + c, out, count);
  }

  const SsdScanParams& p_;
  const int b_, g_;
  float delta_[kSsdTokens], decay_[kSsdTokens];

 private:
  // One channel's state goes on by a token; gives h . C.
  float step(float* h, float decay, float dx) const {
    Vec total = zero();
    int n = 0;
    for (; n + W <= p_.states; n += W) {
      const Vec next = load(h + n) * decay + load(B_ + n) * dx;
      store(h + n, next);
      total += next * load(C_ + n);
    }
    if (const int rest = p_.states - n) {
      const Vec next = load(h + n, rest) * decay + load(B_ + n) * dx;
      store(h + n, next, rest);
      total += choose(lane_numbers() < rest, next * load(C_ + n), zero());
    }
    return sum(total);
  }

  float B_[kSsdStates], C_[kSsdStates];
};

}  // namespace seqexport::cpu::SEQEXPORT_ISA
