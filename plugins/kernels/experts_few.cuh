// Experts of a few tokens: each weight of an expert that one of them chose is read once, and that is the time it takes.
//   1. h[pair,f] = act(gate) * up: a warp for each hidden channel of each chosen expert;
//   2. y[token,d] = sum of weight * (down h + bias): a warp for each channel, through all chosen experts as one row.
// A pair is a token and one of its choices; where tokens share an expert, the first pair's blocks serve them all.
#pragma once

#include "experts_activation.cuh"
#include "launch.cuh"
#include "vector.cuh"

namespace seqexport {
namespace experts_few {

constexpr int kTokensMost = 8, kPairsMost = 256;
constexpr int kWarps = 4, kThreads = 32 * kWarps;

// The first choice of the token that is the expert, or -1.
__device__ __forceinline__ int pair_of(const int* chosen, int token, int choices, int expert) {
  int first = -1;
#pragma unroll 4
  for (int i = choices - 1; i >= 0; --i) {
    if (chosen[token * choices + i] == expert) first = token * choices + i;
  }
  return first;
}

// 1. A block's y is a pair; without work where its expert is that of an earlier one.
template <typename T, int kTokens, bool kGated, bool kVector>
__global__ void __launch_bounds__(kThreads) hidden_kernel(ExpertsParams p, float* h) {
  constexpr int kSize = kVector ? kVectorSize<T> : 1;  // of a pack, what a lane reads at once
  using Pack = Raw<T, kSize>;
  constexpr int kParts = kGated ? 2 : 1;  // gate and up
  constexpr int kAhead = kGated ? 4 : 8;  // packs of each that a lane loads before it needs the first
  __shared__ int pairs[kTokens];          // of each token with this expert, or -1
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  wait_for_previous_kernel();
  const int expert = p.chosen[blockIdx.y];
  bool is_served = !is_expert(p, expert);
  for (int i = threadIdx.x; i < int(blockIdx.y); i += kThreads) is_served |= p.chosen[i] == expert;
  if (threadIdx.x < kTokens) {
    pairs[threadIdx.x] = threadIdx.x < p.rows ? pair_of(p.chosen, threadIdx.x, p.choices, expert) : -1;
  }
  if (__syncthreads_or(is_served)) return;
  const int f = blockIdx.x * kWarps + warp;
  if (f >= p.hidden) return;

  const int64_t row = int64_t(expert) * p.gate_up_channels + f, D = p.channels;
  const T* const weights = static_cast<const T*>(p.gate_up) + row * D;
  const T* const x = static_cast<const T*>(p.x);
  const int64_t part_elements = p.hidden * D;
  const int packs = p.channels / kSize;
  const auto stream = [&](Pack(&into)[kParts], int pack) {
#pragma unroll
    for (int part = 0; part < kParts; ++part) into[part].stream(weights + part * part_elements + int64_t(pack) * kSize);
  };
  Pack ahead[kAhead][kParts];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    if (lane + 32 * i < packs) stream(ahead[i], lane + 32 * i);
  }
  float sums[kTokens][kParts] = {};
  for (int first = lane; first < packs; first += 32 * kAhead) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int pack = first + 32 * i;
      if (pack >= packs) break;
      float values[kParts][kSize];
#pragma unroll
      for (int part = 0; part < kParts; ++part) ahead[i][part].unpack(values[part]);
      if (pack + 32 * kAhead < packs) stream(ahead[i], pack + 32 * kAhead);
#pragma unroll
      for (int m = 0; m < kTokens; ++m) {
        if (kTokens > 1 && pairs[m] < 0) continue;
        float token[kSize];
        load_vector(x + m * D + int64_t(pack) * kSize, token);
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
#pragma unroll
          for (int k = 0; k < kSize; ++k) sums[m][part] = fmaf(values[part][k], token[k], sums[m][part]);
        }
      }
    }
  }
  const T* const bias = p.gate_up_bias ? static_cast<const T*>(p.gate_up_bias) + row : nullptr;
#pragma unroll
  for (int m = 0; m < kTokens; ++m) {
    if (pairs[m] < 0) continue;
    const float gate = warp_sum(sums[m][0]) + (bias ? to_float(bias[0]) : 0.f);
    float up = 1.f;
    if (kGated) up = warp_sum(sums[m][kParts - 1]) + (bias ? to_float(bias[p.hidden]) : 0.f);
    if (lane == m) h[int64_t(pairs[m]) * p.hidden + f] = activated<T>(p.activation, gate) * up;
  }
}

// The chosen experts, each once, in the order of the pairs; and of each token its pair with it, or -1, and its weight.
template <int kTokens>
struct Groups {
  int count;
  int chosen[kPairsMost], is_first[kPairsMost], experts[kPairsMost];
  int pairs[kPairsMost][kTokens];
  float weights[kPairsMost][kTokens];

  // By all threads of the block.
  __device__ void find(const ExpertsParams& p) {
    const int total = p.rows * p.choices;
    for (int i = threadIdx.x; i < total; i += kThreads) chosen[i] = p.chosen[i];
    __syncthreads();
    for (int i = threadIdx.x; i < total; i += kThreads) {
      bool first = is_expert(p, chosen[i]);
      for (int j = 0; j < i; ++j) first &= chosen[j] != chosen[i];
      is_first[i] = first;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < total; i += kThreads) {
      int before = 0;
      for (int j = 0; j < i; ++j) before += is_first[j];
      if (is_first[i]) experts[before] = chosen[i];
      if (i == total - 1) count = before + is_first[i];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count * kTokens; i += kThreads) {
      const int group = i / kTokens, token = i % kTokens;
      int pair = -1;
      float weight = 0.f;
      for (int j = token * p.choices; token < p.rows && j < (token + 1) * p.choices; ++j) {
        if (chosen[j] != experts[group]) continue;
        if (pair < 0) pair = j;
        weight += p.weight[j];
      }
      pairs[group][token] = pair, weights[group][token] = weight;
    }
    __syncthreads();
  }
};

// A pack of the row that a channel's weights of all chosen experts are.
struct Place {
  int group, pack;
  __device__ __forceinline__ void advance(int by, int packs) {
    for (pack += by; pack >= packs; pack -= packs) ++group;
  }
};

// 2.
template <typename T, int kTokens, bool kVector>
__global__ void __launch_bounds__(kThreads) sum_kernel(ExpertsParams p, const float* h) {
  constexpr int kSize = kVector ? kVectorSize<T> : 1;
  using Pack = Raw<T, kSize>;
  constexpr int kAhead = kTokens > 2 ? 4 : 8;
  __shared__ Groups<kTokens> groups;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int d = blockIdx.x * kWarps + warp;
  groups.find(p);  // chosen and weight are older than the kernel before
  const bool is_channel = d < p.channels;
  const int count = is_channel ? groups.count : 0, packs = p.hidden / kSize;
  const auto weights_at = [&](Place at) {
    const int64_t row = int64_t(groups.experts[at.group]) * p.channels + d;
    return static_cast<const T*>(p.down) + row * p.hidden + int64_t(at.pack) * kSize;
  };
  Place places[kAhead];
  Pack ahead[kAhead];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) {
    places[i] = {0, 0};
    places[i].advance(lane + 32 * i, packs);
    if (places[i].group < count) ahead[i].stream(weights_at(places[i]));
  }
  wait_for_previous_kernel();
  if (!is_channel) return;

  float sums[kTokens] = {};
  while (places[0].group < count) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const Place at = places[i];
      if (at.group >= count) break;
      float values[kSize];
      ahead[i].unpack(values);
      places[i].advance(32 * kAhead, packs);
      if (places[i].group < count) ahead[i].stream(weights_at(places[i]));
#pragma unroll
      for (int m = 0; m < kTokens; ++m) {
        const int pair = groups.pairs[at.group][m];
        if (kTokens > 1 && pair < 0) continue;
        float hidden[kSize], sum = 0.f;
        load_vector(h + int64_t(pair) * p.hidden + int64_t(at.pack) * kSize, hidden);
#pragma unroll
        for (int k = 0; k < kSize; ++k) sum = fmaf(values[k], hidden[k], sum);
        sums[m] = fmaf(groups.weights[at.group][m], sum, sums[m]);
      }
    }
  }
  if (p.down_bias) {
    for (int group = lane; group < count; group += 32) {
      const float bias = to_float(static_cast<const T*>(p.down_bias)[int64_t(groups.experts[group]) * p.channels + d]);
#pragma unroll
      for (int m = 0; m < kTokens; ++m) {
        if (groups.pairs[group][m] >= 0) sums[m] = fmaf(groups.weights[group][m], bias, sums[m]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < kTokens; ++m) {
    const float sum = warp_sum(sums[m]);
    if (lane == m && m < p.rows) static_cast<T*>(p.y)[int64_t(m) * p.channels + d] = from_float<T>(sum);
  }
}

template <typename T, int kTokens, bool kVector>
cudaError_t run(const ExpertsParams& p, cudaStream_t stream) {
  float* const h = static_cast<float*>(p.workspace);
  const dim3 grid(unsigned(ceil_div(p.hidden, kWarps)), unsigned(p.rows * p.choices));
  const auto kernel = p.gated ? hidden_kernel<T, kTokens, true, kVector> : hidden_kernel<T, kTokens, false, kVector>;
  const cudaError_t e = launch(kernel, grid, kThreads, 0, stream, p, h);
  if (e != cudaSuccess) return e;
  const dim3 channels(unsigned(ceil_div(p.channels, kWarps)));
  return launch(sum_kernel<T, kTokens, kVector>, channels, kThreads, 0, stream, p, h);
}

// Up to kTokensMost tokens with up to kPairsMost choices.
template <typename T>
cudaError_t run(const ExpertsParams& p, bool vectors, cudaStream_t stream) {
  if (!vectors) return run<T, kTokensMost, false>(p, stream);
  return p.rows == 1 ? run<T, 1, true>(p, stream)
       : p.rows == 2 ? run<T, 2, true>(p, stream)
       : p.rows <= 4 ? run<T, 4, true>(p, stream)
                     : run<T, kTokensMost, true>(p, stream);
}

}  // namespace experts_few
}  // namespace seqexport
