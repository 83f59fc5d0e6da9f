// Mamba-2's scan: h = exp(delta A) h + delta x (outer) B, y = (h . C + D x) silu(z).
//
// A unit is a head of a row, or up to kSsdColumns channels of one; a task is some units of one row and group. A few
// tokens go one by one (ssd_scan_step.h). More go in chunks with matrix products (Dao & Gu 2024, section 6), on a
// transposed copy of the states, lanes being channels. For a chunk:
//   1. B and C widened to float, and the scores C[t] . B[i], which the task's units share;
//   2. for a unit the weights: scores, decayed from i to t by the product of the decays between them, as the recurrence
//      would, so that no decay is a difference of large sums;
//   3. y = what the state gives, decayed from the chunk's start, + weights dx;
//   4. skip and gate, and y goes out; where it is not finite, the tokens go one by one instead, as a product carries
//      infinities and NaN back in time;
//   5. the state = itself, decayed to the chunk's end, + B^T dx, decayed to there.
#include "ssd_scan.h"

#include "gemm.h"
#include "ssd_scan_step.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kFewTokens = 8, kMostUnits = 4, kMinTasks = 8, kStateFloats = kSsdStates * kSsdColumns;
constexpr int kSumStates = 64;  // longer sums are taken in parts: one long sum rounds twice as much
constexpr int kTokens = kSsdTokens, kTokenVecs = kTokens / W;
// Of a decay through several tokens; what is less is 0, as processors take up to a hundred times as long for products
// that are subnormal.
constexpr float kLeastDecay = 0x1p-100f;

int unit_columns(const SsdScanParams& p) { return blocks_of(p.head_size, blocks_of(p.head_size, kSsdColumns)); }
// Of a unit's state.
int state_floats(const SsdScanParams& p) { return p.states * blocks_of(unit_columns(p), W) * W; }

struct Room : InScratch {
  float states[kStateFloats];
  float C[kTokens * kSsdStates], B[kSsdStates * kTokens];       // [tokens, N], [N, tokens]
  float scores[kTokens * kTokens], weights[kTokens * kTokens];  // [t, i]
  float from_start[kTokens], to_end[kTokens];
  float dx[kTokens * kSsdColumns], y[kTokens * kSsdColumns], part[kTokens * kSsdColumns];
};

template <class T>
class Chunks : SsdSteps<T> {
  using Base = SsdSteps<T>;
  using Base::decay_, Base::delta_, Base::p_;

 public:
  using Base::SsdSteps;

  void run(const SsdUnit* units, int count, int valid) {
    for (int i = 0; i < count; ++i) read(units[i], p_.past + (this->present(units[i]) - p_.present), state(i));
    for (int start = 0; start < valid; start += kTokens) {
      const int tokens = smaller(kTokens, valid - start);
      share(start, tokens);
      for (int i = 0; i < count; ++i) chunk(units[i], state(i), start, tokens);
    }
    for (int i = 0; i < count; ++i) write(units[i], state(i));
  }

 private:
  static int padded(const SsdUnit& u) { return blocks_of(u.end - u.first, W) * W; }
  float* state(int i) { return room_.states + i * state_floats(p_); }  // [N, padded]

  void read(const SsdUnit& u, const float* from, float* h) const {
    const int N = p_.states, width = padded(u);
    memset(h, 0, N * width * sizeof *h);
    for (int c = 0; c < u.end - u.first; ++c) {
      for (int n = 0; n < N; ++n) h[n * width + c] = from[(int64_t)c * N + n];
    }
  }

  void write(const SsdUnit& u, const float* h) const {
    const int N = p_.states, width = padded(u);
    float* to = this->present(u);
    for (int c = 0; c < u.end - u.first; ++c) {
      for (int n = 0; n < N; ++n) to[(int64_t)c * N + n] = h[n * width + c];
    }
  }

  // 1.
  void share(int start, int tokens) {
    const int N = p_.states;
    if (tokens < kTokens) memset(room_.B, 0, sizeof room_.B);
    for (int t = 0; t < tokens; ++t) {
      float row[kSsdStates];
      this->widen(p_.B, p_.B_stride, start + t, row);
      for (int n = 0; n < N; ++n) room_.B[n * kTokens + t] = row[n];
      this->widen(p_.C, p_.C_stride, start + t, room_.C + t * kSsdStates);
    }
    product(tokens, kTokens, room_.C, room_.B, room_.scores);
  }

  // out[rows, columns] = C b over all states.
  void product(int rows, int columns, const float* C, const float* b, float* out) {
    for (int n = 0; n < p_.states; n += kSumStates) {
      float* to = n ? room_.part : out;
      memset(to, 0, rows * columns * sizeof *to);
      gemm(rows, columns, smaller(kSumStates, p_.states - n), C + n, kSsdStates, b + n * columns, columns, to, columns);
      for (int i = 0; n && i < rows * columns; i += W) store(out + i, load(out + i) + load(room_.part + i));
    }
  }

  void chunk(const SsdUnit& u, float* h, int start, int tokens) {
    const int width = padded(u);
    this->prepare(u, start, tokens);
    weigh(tokens);
    for (int t = 0; t < tokens; ++t) {
      for (int c = 0; c < width; c += W) {
        store(room_.dx + t * width + c, load(this->x(u, start + t) + c, smaller(W, u.end - u.first - c)) * delta_[t]);
      }
    }
    product(tokens, width, room_.C, h, room_.y);  // 3
    for (int t = 0; t < tokens; ++t) {
      float* const y = room_.y + t * width;
      for (int c = 0; c < width; c += W) store(y + c, load(y + c) * room_.from_start[t]);
    }
    for (int t = 0; t < tokens; t += kTileRows) {
      const int end = smaller(t + kTileRows, tokens);
      gemm(end - t, width, end, room_.weights + t * kTokens, kTokens, room_.dx, width, room_.y + t * width, width);
    }
    if (!finished(u, start, tokens)) return one_by_one(u, h, start, tokens);
    const float kept = room_.from_start[tokens - 1];  // 5
    for (int t = 0; t < tokens; ++t) {
      float* const dx = room_.dx + t * width;
      for (int c = 0; c < width; c += W) store(dx + c, load(dx + c) * room_.to_end[t]);
    }
    for (int i = 0; i < p_.states * width; i += W) store(h + i, load(h + i) * kept);
    gemm(p_.states, width, tokens, room_.B, kTokens, room_.dx, width, h, width);
  }

  // 2.
  void weigh(int tokens) {
    memset(room_.to_end, 0, sizeof room_.to_end);
    float since_start = 1;
    for (int t = 0; t < tokens; ++t) {
      since_start *= decay_[t];
      if (since_start < kLeastDecay) since_start = 0;
      room_.from_start[t] = since_start;
      for (int v = 0; v < kTokenVecs; ++v) {
        const Ints token = lane_numbers() + v * W;
        Vec decay = load(room_.to_end + v * W) * decay_[t];
        decay = choose(decay < kLeastDecay, zero(), decay);
        decay = choose(token < t, decay, choose(token == t, all(1), zero()));
        store(room_.to_end + v * W, decay);
        const int at = t * kTokens + v * W;
        store(room_.weights + at, choose(token <= t, load(room_.scores + at) * decay, zero()));
      }
    }
  }

  // 4. Whether all of it is finite.
  bool finished(const SsdUnit& u, int start, int tokens) const {
    Vec zeros = zero();
    for (int t = 0; t < tokens; ++t) {
      for (int c = 0; c < padded(u); c += W) {
        const Vec out = load(room_.y + t * padded(u) + c);
        zeros += out - out;
        this->finish(u, start + t, c, out);
      }
    }
    return all_at_most(magnitude(zeros), 0);
  }

  void one_by_one(const SsdUnit& u, float* h, int start, int tokens) {
    write(u, h);
    this->steps(u, start, tokens);
    read(u, this->present(u), h);
  }

  Room& room_ = *new Room;
};

// Of a task: as many as share its scores, with at least kMinTasks tasks.
int units_of_task(const SsdScanParams& p) {
  const int64_t units = (int64_t)p.batch * p.heads * blocks_of(p.head_size, unit_columns(p));
  const int most = smaller(kMostUnits, kStateFloats / state_floats(p));
  return units / kMinTasks < most ? larger(1, (int)(units / kMinTasks)) : most;
}

template <class T>
void run(const SsdScanParams& p, int b, int g, const SsdUnit* units, int count) {
  const int valid = valid_tokens(p.seq_lens, b, p.length);
  SsdSteps<T> steps(p, b, g);
  for (int i = 0; i < count; ++i) steps.clear(units[i], valid);
  if (valid >= kFewTokens) return Chunks<T>(p, b, g).run(units, count, valid);
  for (int i = 0; i < count; ++i) steps.run(units[i], valid);
}

}  // namespace

void ssd_scan(const SsdScanParams& p, const Pool& pool) {
  const int columns = unit_columns(p), blocks = blocks_of(p.head_size, columns), each = units_of_task(p);
  const int tasks = blocks_of(blocks_of(p.heads, p.groups) * blocks, each);
  const int64_t work = (int64_t)p.batch * p.length * p.heads * p.head_size * p.states * 3;
  with_type(p.dtype, [&](auto type) {
    parallel(pool, (size_t)p.batch * p.groups * tasks, work, [&](size_t task) {
      const int at = task % tasks, g = task / tasks % p.groups, b = task / tasks / p.groups;
      // The heads h with floor(h G / H) = g.
      const int begin = ((int64_t)g * p.heads + p.groups - 1) / p.groups;
      const int end = ((int64_t)(g + 1) * p.heads + p.groups - 1) / p.groups;
      SsdUnit units[kMostUnits];
      int count = 0;
      for (int unit = at * each; unit < smaller((at + 1) * each, (end - begin) * blocks); ++unit) {
        const int first = unit % blocks * columns;
        units[count++] = {begin + unit / blocks, first, smaller(first + columns, p.head_size)};
      }
      if (count) run<decltype(type)>(p, b, g, units, count);
    });
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
