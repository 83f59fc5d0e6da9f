// Each token through its experts, in two passes over the pairs of a token and a choice of it, sorted by expert:
//   1. each expert and block of hidden channels: h = act(gate) * up for all of the expert's pairs;
//   2. each block of channels: y = the weighted sum of down h + bias over the experts, one after another.
// Weights are read once for every block of pairs, and those of experts that nobody chose not at all.
#include "experts.h"

#include "math.h"
#include "products.h"

namespace seqexport::cpu::SEQEXPORT_ISA {
namespace {

constexpr int kTokensAtOnce = 1024;  // which bounds the scratch memory
constexpr int kTaskFeatures = 48, kTaskRows = 96;

// Pairs first..end in the order of the experts, all of one.
struct Group {
  int expert, first, end;
  int tasks;  // of pass 1 before its own
};

// Scratch memory of one call.
struct Scratch {
  int *tokens, *pairs;  // [M k], of each pair in the order of the experts: its token, and token * k + choice
  int* starts;          // [E + 1]
  Group* groups;        // [E]
  float* h;             // [M k, F]
  float* sums;          // [M, D]

  Scratch(const ExpertsParams& p, int rows)
      : tokens(new int[(size_t)rows * p.choices]), pairs(new int[(size_t)rows * p.choices]),
        starts(new int[(size_t)p.experts + 1]), groups(new Group[p.experts]),
        h(new float[(size_t)rows * p.choices * p.hidden]), sums(new float[(size_t)rows * p.channels]) {}
  ~Scratch() { delete[] tokens, delete[] pairs, delete[] starts, delete[] groups, delete[] h, delete[] sums; }
  Scratch(const Scratch&) = delete;
};

// Counts and places the pairs; gives the number of groups.
int sort_pairs(const ExpertsParams& p, const Scratch& scratch) {
  const auto inside = [&](int expert) { return expert >= 0 && expert < p.experts; };
  const int pairs = p.rows * p.choices;
  memset(scratch.starts, 0, sizeof(int) * (p.experts + 1));
  for (int i = 0; i < pairs; ++i) {
    if (inside(p.chosen[i])) ++scratch.starts[p.chosen[i] + 1];
  }
  int groups = 0, tasks = 0;
  for (int e = 0; e < p.experts; ++e) {
    const int count = scratch.starts[e + 1];
    scratch.starts[e + 1] += scratch.starts[e];
    if (count == 0) continue;
    scratch.groups[groups++] = {e, scratch.starts[e], scratch.starts[e + 1], tasks};
    tasks += blocks_of(count, kTaskRows) * blocks_of(p.hidden, kTaskFeatures);
  }
  for (int i = 0; i < pairs; ++i) {
    if (!inside(p.chosen[i])) continue;
    const int at = scratch.starts[p.chosen[i]]++;
    scratch.tokens[at] = i / p.choices, scratch.pairs[at] = i;
  }
  return groups;
}

Vec gelu(Vec x) {
  for (int lane = 0; lane < W; ++lane) x[lane] *= 0.5f * (1.f + __builtin_erff(x[lane] * 0.70710678f));
  return x;
}
Vec gelu_tanh(Vec x) { return x * 0.5f * (tanh((x * x * 0.044715f + 1.f) * x * 0.79788456f) + 1.f); }
Vec relu(Vec x) { return choose(x < 0.f, zero(), x); }

Vec activated(int activation, Vec x) {
  switch (activation) {
    case SEQEXPORT_SILU: return silu(x);
    case SEQEXPORT_GELU: return gelu(x);
    case SEQEXPORT_GELU_TANH: return gelu_tanh(x);
    case SEQEXPORT_RELU: return relu(x);
    default: return relu(x) * relu(x);
  }
}

// 1. Hidden channels first..end of the group's pairs row..rows.
template <class T>
void hide(const ExpertsParams& p, const Scratch& scratch, const Group& group, int row, int rows, int first, int end) {
  float* h = scratch.h + (int64_t)group.first * p.hidden;
  const int64_t weights = (int64_t)group.expert * p.gate_up_channels;
  Product<T, T, float> gate = {(const T*)p.x, scratch.tokens + group.first, (const T*)p.gate_up + weights * p.channels,
                               p.gate_up_bias ? (const T*)p.gate_up_bias + weights : nullptr, h, p.hidden, p.channels};
  product(gate, row, rows, first, end);
  float ups[kTaskRows * kTaskFeatures];
  if (p.gated) {
    Product<T, T, float> up = gate;
    up.weight += (int64_t)p.hidden * p.channels;
    if (up.bias) up.bias += p.hidden;
    up.y = ups - (int64_t)row * kTaskFeatures - first, up.y_stride = kTaskFeatures;
    product(up, row, rows, first, end);
  }
  for (int m = row; m < rows; ++m) {
    for (int f = first; f < end; f += W) {
      float* at = h + (int64_t)m * p.hidden + f;
      const int count = smaller(W, end - f);
      Vec value = activated(p.activation, load(at, count));
      if (p.gated) value *= load(ups + (m - row) * kTaskFeatures + f - first, count);
      store(at, value, count);
    }
  }
}

// 2. Channels first..end of the group's pairs, added to their tokens' sums.
template <class T>
void add(const ExpertsParams& p, const Scratch& scratch, const Group& group, int first, int end) {
  const int64_t weights = (int64_t)group.expert * p.channels;
  float outs[kTaskRows * kTaskFeatures];
  Product<float, T, float> down = {scratch.h, nullptr, (const T*)p.down + weights * p.hidden,
                                   p.down_bias ? (const T*)p.down_bias + weights : nullptr, nullptr, kTaskFeatures,
                                   p.hidden};
  for (int row = group.first; row < group.end; row += kTaskRows) {
    const int rows = smaller(row + kTaskRows, group.end);
    down.y = outs - (int64_t)row * kTaskFeatures - first;
    product(down, row, rows, first, end);
    for (int m = row; m < rows; ++m) {
      const float weight = p.weight[scratch.pairs[m]];
      float* sums = scratch.sums + (int64_t)scratch.tokens[m] * p.channels;
      for (int d = first; d < end; d += W) {
        const int count = smaller(W, end - d);
        store(sums + d, load(sums + d, count) + load(outs + (m - row) * kTaskFeatures + d - first, count) * weight,
              count);
      }
    }
  }
}

template <class T>
void combine(const ExpertsParams& p, const Scratch& scratch, int groups, int first, int end) {
  for (int m = 0; m < p.rows; ++m) {
    memset(scratch.sums + (int64_t)m * p.channels + first, 0, sizeof(float) * (end - first));
  }
  for (int i = 0; i < groups; ++i) add<T>(p, scratch, scratch.groups[i], first, end);
  for (int m = 0; m < p.rows; ++m) {
    const int64_t at = (int64_t)m * p.channels;
    for (int d = first; d < end; d += W) {
      const int count = smaller(W, end - d);
      store((T*)p.y + at + d, load(scratch.sums + at + d, count), count);
    }
  }
}

template <class T>
void compute(const ExpertsParams& p, const Scratch& scratch, const Pool& pool) {
  const int groups = sort_pairs(p, scratch);
  const int blocks = blocks_of(p.hidden, kTaskFeatures);
  const int64_t products = (int64_t)p.rows * p.choices * p.hidden * p.channels / W;
  if (groups > 0) {
    const Group& last = scratch.groups[groups - 1];
    const int tasks = last.tasks + blocks_of(last.end - last.first, kTaskRows) * blocks;
    parallel(pool, tasks, products * (1 + p.gated), [&](size_t task) {
      int low = 0, high = groups;  // the last group that begins at the task or before
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        (scratch.groups[middle].tasks <= (int)task ? low : high) = middle;
      }
      const Group& group = scratch.groups[low];
      const int pairs = group.end - group.first, row_blocks = blocks_of(pairs, kTaskRows);
      const int block = (int)task - group.tasks;
      const int row = block % row_blocks * kTaskRows, first = block / row_blocks * kTaskFeatures;
      hide<T>(p, scratch, group, row, smaller(row + kTaskRows, pairs), first, smaller(first + kTaskFeatures, p.hidden));
    });
  }
  parallel(pool, blocks_of(p.channels, kTaskFeatures), products, [&](size_t task) {
    const int first = (int)task * kTaskFeatures;
    combine<T>(p, scratch, groups, first, smaller(first + kTaskFeatures, p.channels));
  });
}

}  // namespace

void experts(const ExpertsParams& p, const Pool& pool) {
  const Scratch scratch(p, smaller(p.rows, kTokensAtOnce));
  with_type(p.dtype, [&](auto type) {
    using T = decltype(type);
    for (int token = 0; token < p.rows; token += kTokensAtOnce) {
      ExpertsParams part = p;
      part.rows = smaller(kTokensAtOnce, p.rows - token);
      part.x = (const T*)p.x + (int64_t)token * p.channels;
      part.chosen += (int64_t)token * p.choices, part.weight += (int64_t)token * p.choices;
      part.y = (T*)p.y + (int64_t)token * p.channels;
      compute<T>(part, scratch, pool);
    }
  });
}

}  // namespace seqexport::cpu::SEQEXPORT_ISA
