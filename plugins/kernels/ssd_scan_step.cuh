// SsdScan of one token. Floor: device memory, the state read and written once.
//
// kLanes neighbouring lanes share a row of the state (one p), four states each at a time; a warp has kRows rows for every
// set of lanes, whose loads are under way together.
#pragma once

#include "launch.cuh"
#include "ssd_scan_common.cuh"
#include "vector.cuh"

namespace seqexport {

constexpr int kSsdStepThreads = 128;

template <typename T, int kLanes, int kRows, bool kVector>
struct SsdStep {
  static constexpr int kSets = kSsdStepThreads / kLanes, kBlockRows = kSets * kRows;

  const SsdScanParams& p;
  const int b, head, set, lane;
  float decay, delta;

  __device__ __forceinline__ SsdStep(const SsdScanParams& p_)
      : p(p_), b(blockIdx.z), head(blockIdx.y), set(threadIdx.x / kLanes), lane(threadIdx.x % kLanes) {}

  __device__ __forceinline__ int row(int r) const { return blockIdx.x * kBlockRows + set * kRows + r; }

  // Four values from `from` of `count` that exist.
  template <typename V>
  __device__ __forceinline__ static float4 load(const V* from, int count) {
    if (kVector) return count > 0 ? load_quad(from) : make_float4(0.f, 0.f, 0.f, 0.f);
    return make_float4(count > 0 ? to_float(from[0]) : 0.f, count > 1 ? to_float(from[1]) : 0.f,
                       count > 2 ? to_float(from[2]) : 0.f, count > 3 ? to_float(from[3]) : 0.f);
  }
  __device__ __forceinline__ static void store(float* to, const float4& v, int count) {
    if (kVector) {
      if (count > 0) *reinterpret_cast<float4*>(to) = v;
      return;
    }
    const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (k < count) to[k] = values[k];
    }
  }

  __device__ __forceinline__ void run() {
    const int64_t state = ssd_state(p, b, head);
    const int group = ssd_group(p, head) * p.states;
    const T* x = static_cast<const T*>(p.x) + b * p.x_stride + int64_t(head) * p.head_size;
    const T* B = static_cast<const T*>(p.B) + b * p.B_stride + group;
    const T* C = static_cast<const T*>(p.C) + b * p.C_stride + group;
    const float rate = decay_rate(p.A[head]), bias = p.dt_bias ? p.dt_bias[head] : 0.f;
    prefetch(state);
    wait_for_previous_kernel();
    const bool valid = !p.seq_lens || p.seq_lens[b] > 0;
    delta = valid ? ssd_delta<T>(p, ssd_dt<T>(p, b, 0, head), bias) : 0.f;
    decay = ssd_decay(delta * rate);
    float in[kRows], y[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      in[r] = row(r) < p.head_size && valid ? to_float(x[row(r)]) : 0.f;
      y[r] = 0.f;
    }
    for (int n = lane * 4; n < p.states; n += kLanes * 4) {
      const int count = p.states - n;
      float4 h[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        h[r] = load(p.past + state + int64_t(row(r)) * p.states + n, row(r) < p.head_size ? count : 0);
      }
      if (valid) {
        const float4 into = load(B + n, count), out = load(C + n, count);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float u = delta * in[r];
          h[r].x = fmaf(decay, h[r].x, u * into.x), h[r].y = fmaf(decay, h[r].y, u * into.y);
          h[r].z = fmaf(decay, h[r].z, u * into.z), h[r].w = fmaf(decay, h[r].w, u * into.w);
          y[r] = fmaf(out.x, h[r].x, fmaf(out.y, h[r].y, fmaf(out.z, h[r].z, fmaf(out.w, h[r].w, y[r]))));
        }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        store(p.present + state + int64_t(row(r)) * p.states + n, h[r], row(r) < p.head_size ? count : 0);
      }
    }
    finish(y, in, valid);
  }

  __device__ __forceinline__ void prefetch(int64_t state) const {
    constexpr int kLine = 128 / sizeof(float);
    if (lane * 4 % kLine != 0 || lane * 4 >= p.states) return;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (row(r) < p.head_size) prefetch_to_l2(p.past + state + int64_t(row(r)) * p.states + lane * 4);
    }
  }

  // Every lane sums all rows; lane r of them writes row r.
  __device__ __forceinline__ void finish(float (&y)[kRows], const float (&in)[kRows], bool valid) const {
    float mine = 0.f, x = 0.f;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int w = kLanes / 2; w >= 1; w /= 2) y[r] += __shfl_xor_sync(0xffffffffu, y[r], w);
      if (lane == r) mine = y[r], x = in[r];
    }
    if (lane >= kRows || row(lane) >= p.head_size) return;
    const int64_t at = int64_t(head) * p.head_size + row(lane);
    if (p.D) mine = fmaf(p.D[head], x, mine);
    if (p.z && valid) mine *= silu<T>(to_float(static_cast<const T*>(p.z)[b * p.z_stride + at]));
    static_cast<T*>(p.y)[int64_t(b) * p.heads * p.head_size + at] = from_float<T>(valid ? mine : 0.f);
  }
};

template <typename T, int kLanes, int kRows, bool kVector>
__global__ void __launch_bounds__(kSsdStepThreads) ssd_step_kernel(SsdScanParams p) {
  SsdStep<T, kLanes, kRows, kVector>(p).run();
}

template <typename T, int kLanes, int kRows>
cudaError_t launch_ssd_step(const SsdScanParams& p, cudaStream_t stream) {
  const bool vector = p.states % 4 == 0 && p.B_stride % 4 == 0 && p.C_stride % 4 == 0 &&
                      is_aligned_to_vectors(p.B) && is_aligned_to_vectors(p.C) && is_aligned_to_vectors(p.past) &&
                      is_aligned_to_vectors(p.present);
  constexpr int kBlockRows = SsdStep<T, kLanes, kRows, true>::kBlockRows;
  const dim3 grid(ceil_div(p.head_size, kBlockRows), p.heads, p.batch);
  return vector ? launch(ssd_step_kernel<T, kLanes, kRows, true>, grid, kSsdStepThreads, 0, stream, p)
                : launch(ssd_step_kernel<T, kLanes, kRows, false>, grid, kSsdStepThreads, 0, stream, p);
}

}  // namespace seqexport
