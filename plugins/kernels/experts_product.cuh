// What the two products of experts read and write, whichever kernel computes them. A tile is up to kTileRows pairs of
// one expert by two halves of features: gate and up of the same hidden channels, or neighbouring features of a weight.
#pragma once

#include "experts_sort.cuh"
#include "vector.cuh"

namespace seqexport {

enum class ExpertProduct { kGatedUp, kUp, kDown };

// The workspace of many tokens.
template <typename T>
struct ManyPairs {
  SortedPairs sorted;
  T* h;    // [M k, F] in the order of the experts
  T* out;  // [M k, D] in the order of the tokens: down h + bias, times the weight
};

template <typename T, ExpertProduct kProduct>
struct ExpertOperands {
  static constexpr bool kIsDown = kProduct == ExpertProduct::kDown;
  const ExpertsParams& p;
  const ManyPairs<T>& many;
  Tile tile;

  __device__ __forceinline__ int depth() const { return kIsDown ? p.hidden : p.channels; }
  __device__ __forceinline__ int features() const { return kIsDown ? p.channels : p.hidden; }

  // Features of a block of two halves, and the first of one half of it.
  __host__ __device__ static constexpr int width(int half) {
    return kProduct == ExpertProduct::kGatedUp ? half : 2 * half;
  }
  __device__ __forceinline__ int first_feature(int block, int which, int half) const {
    return block * width(half) + (kProduct == ExpertProduct::kGatedUp ? 0 : which * half);
  }

  __device__ __forceinline__ const T* row(int pair) const {
    if (kIsDown) return many.h + int64_t(pair) * p.hidden;
    return static_cast<const T*>(p.x) + int64_t(many.sorted.order[pair] / p.choices) * p.channels;
  }
  // A feature's weights in the first or the second half.
  __device__ __forceinline__ int64_t weight_row(int which, int feature) const {
    if (kIsDown) return int64_t(tile.expert) * p.channels + feature;
    const bool is_up = kProduct == ExpertProduct::kGatedUp && which == 1;
    return int64_t(tile.expert) * p.gate_up_channels + (is_up ? p.hidden : 0) + feature;
  }
  __device__ __forceinline__ const T* weights(int which, int feature) const {
    return static_cast<const T*>(kIsDown ? p.down : p.gate_up) + weight_row(which, feature) * depth();
  }
  __device__ __forceinline__ float bias(int which, int feature) const {
    const T* const all = static_cast<const T*>(kIsDown ? p.down_bias : p.gate_up_bias);
    return all ? to_float(all[weight_row(which, feature)]) : 0.f;
  }

  // kCount neighbouring features of a pair, of both halves from `feature0` and `feature1` on; kCount 2: all that there
  // are come in twos.
  template <int kCount>
  __device__ __forceinline__ void finish(int pair, int feature0, int feature1, const float* half0,
                                         const float* half1) const {
    if (kProduct == ExpertProduct::kGatedUp) {
      if (feature0 >= features()) return;
      float values[kCount];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        values[i] = activated<T>(p.activation, half0[i] + bias(0, feature0 + i)) * (half1[i] + bias(1, feature0 + i));
      }
      store_vector(many.h + int64_t(pair) * p.hidden + feature0, values);
    } else {
      finish_half<kCount>(pair, feature0, half0);
      finish_half<kCount>(pair, feature1, half1);
    }
  }

 private:
  template <int kCount>
  __device__ __forceinline__ void finish_half(int pair, int feature, const float* half) const {
    if (feature >= features()) return;
    const int place = kIsDown ? many.sorted.order[pair] : pair;
    const float weight = kIsDown ? p.weight[place] : 1.f;
    float values[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float value = half[i] + bias(0, feature + i);
      values[i] = kIsDown ? weight * value : activated<T>(p.activation, value);
    }
    store_vector((kIsDown ? many.out : many.h) + int64_t(place) * features() + feature, values);
  }
};

// y[token,d] = the sum of its pairs' outs, in their order. V channels a thread.
template <typename T, int V>
__global__ void __launch_bounds__(256) combine_kernel(ExpertsParams p, const T* out) {
  wait_for_previous_kernel();
  const int parts = p.channels / V;
  const int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i >= int64_t(p.rows) * parts) return;
  const int64_t token = i / parts, d = i % parts * V;
  float sums[V] = {};
  for (int choice = 0; choice < p.choices; ++choice) {
    const int64_t pair = token * p.choices + choice;
    if (!is_expert(p, p.chosen[pair])) continue;
    float values[V];
    load_vector(out + pair * p.channels + d, values);
#pragma unroll
    for (int k = 0; k < V; ++k) sums[k] += values[k];
  }
  store_vector(static_cast<T*>(p.y) + token * p.channels + d, sums);
}

}  // namespace seqexport
