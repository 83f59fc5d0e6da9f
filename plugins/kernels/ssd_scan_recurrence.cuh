// SsdScan token by token, in float32 whatever T is: for float32, devices without tensor cores, and what copies of 16
// bytes cannot read. Floor: 3 operations a state and token on the FMA units.
//
// Four neighbouring lanes share a row of the state (one p), quads of states in turns; a block has 32 rows of one head
// and goes through its segment in tiles of tokens.
#pragma once

#include "launch.cuh"
#include "ssd_scan_common.cuh"

namespace seqexport {

constexpr int kSsdRows = 32, kSsdLanes = 4, kSsdThreads = kSsdRows * kSsdLanes, kSsdTileTokens = 16;

template <typename T, int kN>
struct SsdRecurrence {
  static constexpr int kQuads = kN / 4 / kSsdLanes;  // of states, of a thread

  struct Shared {
    float4 B[kSsdTileTokens][kN / 4], C[kSsdTileTokens][kN / 4];
    float x[kSsdTileTokens][kSsdRows];
    float y[kSsdTileTokens][kSsdRows];
    float delta[kSsdTileTokens], decay[kSsdTileTokens], exponent[kSsdTileTokens];
  };

  const SsdScanParams& p;
  Shared& shared;
  const int b, head, group, first_row, row, lane, t_begin, t_end, valid;
  const float rate, bias;
  float4 h[kQuads];
  float sum = 0.f;  // of the exponents, in thread 0

  __device__ __forceinline__ SsdRecurrence(const SsdScanParams& p_, const SsdSegments& segments, Shared& shared_)
      : p(p_), shared(shared_), b(blockIdx.z), head(blockIdx.x % p_.heads), group(ssd_group(p_, head)),
        first_row(int(blockIdx.x / p_.heads) * kSsdRows), row(first_row + int(threadIdx.x) / kSsdLanes),
        lane(threadIdx.x % kSsdLanes), t_begin(int(blockIdx.y) * segments.tokens),
        t_end(min(t_begin + segments.tokens, p_.length)), valid(ssd_valid_tokens(p_, b)),
        rate(decay_rate(p_.A[head])), bias(p_.dt_bias ? p_.dt_bias[head] : 0.f) {}

  // body(a state of this thread, its place in the row), for those that exist.
  template <typename Body>
  __device__ __forceinline__ void for_states(const Body& body) {
    if (row >= p.head_size) return;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      float* values = reinterpret_cast<float*>(&h[q]);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int n = (q * kSsdLanes + lane) * 4 + k;
        if (n < p.states) body(values[k], int64_t(row) * p.states + n);
      }
    }
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) h[q] = make_float4(0.f, 0.f, 0.f, 0.f);
  }

  template <bool kLocal>
  __device__ __forceinline__ void run() {
    for (int t = t_begin; t < t_end; t += kSsdTileTokens) {
      __syncthreads();
      read<kLocal>(t);
      __syncthreads();
      const int tokens = min(kSsdTileTokens, min(t_end, valid) - t);
#pragma unroll 1
      for (int i = 0; i < tokens; ++i) token<kLocal>(i);
      if (kLocal) continue;
      __syncthreads();
      write(t, min(kSsdTileTokens, t_end - t));
    }
  }

 private:
  __device__ __forceinline__ static float at(const void* base, int64_t i) {
    return to_float(static_cast<const T*>(base)[i]);
  }

  // What lies past the last valid token, state or row is 0, and moves no state.
  template <bool kLocal>
  __device__ __forceinline__ void read(int first) {
    const int64_t token = int64_t(b) * p.length + first;
    for (int i = threadIdx.x; i < kSsdTileTokens * kN; i += kSsdThreads) {
      const int t = i / kN, n = i % kN;
      const bool there = first + t < min(t_end, valid) && n < p.states;
      const int64_t column = int64_t(group) * p.states + n;
      reinterpret_cast<float*>(shared.B[t])[n] = there ? at(p.B, (token + t) * p.B_stride + column) : 0.f;
      if (!kLocal) reinterpret_cast<float*>(shared.C[t])[n] = there ? at(p.C, (token + t) * p.C_stride + column) : 0.f;
    }
    for (int i = threadIdx.x; i < kSsdTileTokens * kSsdRows; i += kSsdThreads) {
      const int t = i / kSsdRows, r = i % kSsdRows;
      const bool there = first + t < min(t_end, valid) && first_row + r < p.head_size;
      shared.x[t][r] = there ? at(p.x, (token + t) * p.x_stride + int64_t(head) * p.head_size + first_row + r) : 0.f;
    }
    if (threadIdx.x < kSsdTileTokens) {
      const int t = threadIdx.x;
      const bool there = first + t < min(t_end, valid);
      const float delta = there ? ssd_delta<T>(p, ssd_dt<T>(p, b, first + t, head), bias) : 0.f;
      shared.delta[t] = delta, shared.exponent[t] = delta * rate, shared.decay[t] = ssd_decay(delta * rate);
    }
  }

  template <bool kLocal>
  __device__ __forceinline__ void token(int t) {
    const int r = threadIdx.x / kSsdLanes;
    const float decay = shared.decay[t], u = shared.delta[t] * shared.x[t][r];
    float y = 0.f;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      const float4 in = shared.B[t][q * kSsdLanes + lane];
      h[q].x = fmaf(decay, h[q].x, u * in.x), h[q].y = fmaf(decay, h[q].y, u * in.y);
      h[q].z = fmaf(decay, h[q].z, u * in.z), h[q].w = fmaf(decay, h[q].w, u * in.w);
      if (kLocal) continue;
      const float4 out = shared.C[t][q * kSsdLanes + lane];
      y = fmaf(out.x, h[q].x, fmaf(out.y, h[q].y, fmaf(out.z, h[q].z, fmaf(out.w, h[q].w, y))));
    }
    if (kLocal) {
      if (threadIdx.x == 0) sum += shared.exponent[t];
      return;
    }
    y += __shfl_xor_sync(0xffffffffu, y, 1);
    y += __shfl_xor_sync(0xffffffffu, y, 2);
    if (lane == 0) shared.y[t][r] = y;
  }

  __device__ __forceinline__ void write(int first, int tokens) const {
    for (int i = threadIdx.x; i < tokens * kSsdRows; i += kSsdThreads) {
      const int t = i / kSsdRows, r = i % kSsdRows;
      if (first_row + r >= p.head_size) continue;
      const int64_t token = int64_t(b) * p.length + first + t;
      const int64_t column = int64_t(head) * p.head_size + first_row + r;
      float y = 0.f;
      if (first + t < valid) {
        y = p.D ? fmaf(p.D[head], shared.x[t][r], shared.y[t][r]) : shared.y[t][r];
        if (p.z) y *= silu<T>(at(p.z, token * p.z_stride + column));
      }
      static_cast<T*>(p.y)[token * p.heads * p.head_size + column] = from_float<T>(y);
    }
  }
};

template <typename T, int kN, bool kLocal>
__global__ void __launch_bounds__(kSsdThreads) ssd_recurrence_kernel(SsdScanParams p, SsdSegments segments) {
  using Recurrence = SsdRecurrence<T, kN>;
  __shared__ typename Recurrence::Shared shared;
  wait_for_previous_kernel();
  Recurrence scan(p, segments, shared);
  const int segment = blockIdx.y;
  scan.clear();
  if (!kLocal) {
    const float* start = segments.count > 1 ? segments.h + segments.state(p, scan.b, segment, scan.head)
                                            : p.past + ssd_state(p, scan.b, scan.head);
    scan.for_states([&](float& h, int64_t i) { h = start[i]; });
  }
  scan.template run<kLocal>();
  if (kLocal) {
    float* end = segments.h + segments.state(p, scan.b, segment, scan.head);
    scan.for_states([&](float& h, int64_t i) { end[i] = h; });
    if (threadIdx.x == 0) segments.sum_of(p, scan.b, segment, scan.head) = scan.sum;
  } else if (segment == segments.count - 1) {
    float* present = p.present + ssd_state(p, scan.b, scan.head);
    scan.for_states([&](float& h, int64_t i) { present[i] = h; });
  }
}

}  // namespace seqexport
