// What the kernels of SsdScan share: how time is cut, where a block stands, and a token's step.
#pragma once

#include "numeric.cuh"
#include "ssd_scan.h"

namespace seqexport {

// How a scan is cut in time: into segments that are scanned in parallel, and where the share of a block ends.
struct SsdSegments {
  int count;   // in time
  int tokens;  // of each but the last, a multiple of every kernel's tile
  float* h;    // F[B,count,H,P,N]: a segment's end state from zero, after the carry its start state
  float* sum;  // F[B,count,H]: the sum of delta * A * log2(e) over a segment

  // Where as many blocks as the device holds share the segments of all rows evenly: block i ends within one whose states
  // it leaves in `between` for block i + 1, and then sets handed[i].
  bool shared = false;
  float* between = nullptr;
  int32_t* handed = nullptr;

  // Where those of row b, this segment and this head begin.
  __device__ __forceinline__ int64_t state(const SsdScanParams& p, int b, int segment, int head) const {
    return ((int64_t(b) * count + segment) * p.heads + head) * p.head_size * p.states;
  }
  __device__ __forceinline__ float& sum_of(const SsdScanParams& p, int b, int segment, int head) const {
    return sum[(int64_t(b) * count + segment) * p.heads + head];
  }
};

__device__ __forceinline__ int64_t ssd_state(const SsdScanParams& p, int b, int head) {
  return (int64_t(b) * p.heads + head) * p.head_size * p.states;
}

__device__ __forceinline__ int ssd_group(const SsdScanParams& p, int head) {
  return int(int64_t(head) * p.groups / p.heads);
}

// The heads of group g are those from this on, up to that of group g + 1.
__host__ __device__ inline int ssd_first_head(const SsdScanParams& p, int g) {
  return int((int64_t(g) * p.heads + p.groups - 1) / p.groups);
}

__device__ __forceinline__ int ssd_valid_tokens(const SsdScanParams& p, int b) {
  return p.seq_lens ? min(max(p.seq_lens[b], 0), p.length) : p.length;
}

// delta of a token from its dt; comparisons that leave NaN as it is.
template <typename T>
__device__ __forceinline__ float ssd_delta(const SsdScanParams& p, float dt, float bias) {
  float delta = dt + bias;
  if (p.dt_softplus) delta = softplus<T>(delta);
  if (p.dt_min > 0.f && delta < p.dt_min) delta = p.dt_min;
  if (p.dt_max > 0.f && delta > p.dt_max) delta = p.dt_max;
  return delta;
}

template <typename T>
__device__ __forceinline__ float ssd_dt(const SsdScanParams& p, int b, int t, int head) {
  return to_float(static_cast<const T*>(p.dt)[(int64_t(b) * p.length + t) * p.dt_stride + head]);
}

// 2^x where it is a decay that multiplies up: see kExp2Bias.
__device__ __forceinline__ float ssd_decay(float x) { return exp2_approx(x + kExp2Bias); }

}  // namespace seqexport
