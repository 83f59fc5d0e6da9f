// The selective scan with time over the lanes of a warp: a warp scans one channel, each lane kItems tokens in a row.
//
// Per tile of 32 * kItems tokens, which arrives in shared memory while the tile before is scanned
// (selective_scan_lanes_tile.cuh):
//   1. B and C are transposed, so that a lane reads its tokens of one state in 16-byte words;
//   2. delta = softplus(dt + dt_bias), u = delta * x and y = D * x, in registers;
//   3. for each state: the lane's end state from zero, a prefix scan of (decay, state) over the lanes, and the
//      recurrence again from the lane's true start state with the decays still in registers, y += C * h;
//      the decays of the next state meanwhile;
//   4. y gated by silu(z), over x in shared memory, and from there to global memory a tile later.
#pragma once

#include "selective_scan_lanes_tile.cuh"
#include "vector.cuh"

namespace seqexport {

// A scanning warp.
template <typename Traits>
struct LaneScanner {
  using T = typename Traits::T;
  using Inputs = typename Traits::Inputs;
  using Shared = typename Traits::Shared;
  static constexpr int kItems = Traits::kItems, kVector = Traits::kVector;

  // Of one state: the lane's tokens, and the state before them.
  struct Steps {
    float decay[kItems], input[kItems], product, h;
  };

  const SelectiveScanParams& p;
  const ScanPlace& s;
  Shared& shared;
  const int lane, channel;
  float D, dt_bias;
  float delta[kItems], u[kItems], y[kItems], delta_sum;

  __device__ __forceinline__ LaneScanner(const SelectiveScanParams& p_, const ScanPlace& s_, Shared& shared_)
      : p(p_), s(s_), shared(shared_), lane(threadIdx.x % 32), channel(threadIdx.x / 32) {
    const bool valid = channel < s.width;
    const int d = s.d_begin + channel;
    D = valid && p.D ? p.D[d] : 0.f;
    dt_bias = valid && p.dt_bias ? p.dt_bias[d] : 0.f;
    if (lane >= Traits::kStates) return;
    float2& state = shared.state[channel][lane];
    state = make_float2(0.f, 0.f);
    if (!valid || lane >= p.states) return;
    state = make_float2(decay_rate(p.A[int64_t(d) * p.states + lane]), p.past[state_index()]);
  }

  // Of state `lane` in F[B,D,N].
  __device__ __forceinline__ int64_t state_index() const {
    return (int64_t(s.b) * p.channels + s.d_begin + channel) * p.states + lane;
  }

  __device__ __forceinline__ T& element(typename Traits::Channels& tile, int k) const {
    return tile.rows[lane][k * Traits::kChannels + channel];
  }

  // Zeros for tokens past the row's length.
  __device__ __forceinline__ void mask(float (&values)[kItems], int t0) const {
    const int valid = s.len - t0 - lane * kItems;
    if (s.len - t0 >= Traits::kTokens) return;
#pragma unroll
    for (int k = 0; k < kItems; ++k) values[k] = k < valid ? values[k] : 0.f;
  }

  __device__ __forceinline__ void prepare(int stage, int t0) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) delta[k] = to_float(element(shared.input(stage).dt, k)) + dt_bias;
    if (p.dt_softplus) {
#pragma unroll
      for (int k = 0; k < kItems; ++k) delta[k] = softplus<T>(delta[k]);
    }
    mask(delta, t0);
    delta_sum = 0.f;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      const float x = to_float(element(shared.x[stage], k));
      u[k] = delta[k] * x;
      y[k] = D * x;
      delta_sum += delta[k];
    }
  }

  __device__ __forceinline__ void load_tokens(const typename Traits::Transposed& tile, int n, float (&v)[kItems]) {
#pragma unroll
    for (int w = 0; w < kItems / kVector; ++w) {
      float word[kVector];
      load_vector(&tile.words[w][(n * 33 + lane) * kVector], word);
#pragma unroll
      for (int i = 0; i < kVector; ++i) v[w * kVector + i] = word[i];
    }
  }

  __device__ __forceinline__ void begin_state(const Inputs& inputs, int n, Steps& steps) {
    const float2 state = shared.state[channel][n];
    float b[kItems];
    load_tokens(inputs.B, n, b);
    steps.h = state.y;
    steps.product = exp2_approx(fmaf(delta_sum, state.x, kExp2Bias));
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      steps.decay[k] = exp2_approx(fmaf(delta[k], state.x, kExp2Bias));
      steps.input[k] = u[k] * b[k];
    }
  }

  // In lane 31: the state after the tile.
  __device__ __forceinline__ float finish_state(const Inputs& inputs, int n, const Steps& steps) {
    float end = steps.input[0], product = steps.product;
#pragma unroll
    for (int k = 1; k < kItems; ++k) end = fmaf(steps.decay[k], end, steps.input[k]);
    if (lane == 0) end = fmaf(product, steps.h, end);
#pragma unroll
    for (int w = 1; w < 32; w *= 2) {
      const float end_before = __shfl_up_sync(0xffffffffu, end, w);
      const float product_before = __shfl_up_sync(0xffffffffu, product, w);
      end = lane < w ? end : fmaf(product, end_before, end);
      product = lane < w ? product : product * product_before;
    }
    const float end_before = __shfl_up_sync(0xffffffffu, end, 1);
    float h = lane > 0 ? end_before : steps.h, c[kItems];
    load_tokens(inputs.C, n, c);
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      h = fmaf(steps.decay[k], h, steps.input[k]);
      y[k] = fmaf(c[k], h, y[k]);
    }
    return end;
  }

  __device__ __forceinline__ void keep_states(int n, float even, float odd) {
    __syncwarp();
    if (lane != 31) return;
    shared.state[channel][n].y = even;
    shared.state[channel][n + 1].y = odd;
  }

  // A state's decays are computed while the one before passes through the lanes. States past N, up to an even number
  // of them, are zeros.
  __device__ __forceinline__ void scan_states(const Inputs& inputs) {
    Steps even, odd;
    begin_state(inputs, 0, even);
    int n = 0;
#pragma unroll 1
    for (; n + 2 < p.states; n += 2) {
      begin_state(inputs, n + 1, odd);
      const float even_end = finish_state(inputs, n, even);
      begin_state(inputs, n + 2, even);
      keep_states(n, even_end, finish_state(inputs, n + 1, odd));
    }
    begin_state(inputs, n + 1, odd);
    const float even_end = finish_state(inputs, n, even);
    keep_states(n, even_end, finish_state(inputs, n + 1, odd));
  }

  __device__ __forceinline__ void scan(int stage, int t0) {
    if (t0 < s.len) scan_states(shared.input(stage));
    if (p.z) {
#pragma unroll
      for (int k = 0; k < kItems; ++k) y[k] *= silu<T>(to_float(element(shared.z[stage], k)));
    }
    mask(y, t0);
#pragma unroll
    for (int k = 0; k < kItems; ++k) element(shared.x[stage], k) = from_float<T>(y[k]);
  }

  __device__ __forceinline__ void finish() const {
    if (channel < s.width && lane < p.states) p.present[state_index()] = shared.state[channel][lane].y;
  }
};

// All threads move a tile, then scan it while the next arrives.
template <typename Traits>
__device__ __forceinline__ void lane_scan(const SelectiveScanParams& p, const ScanPlace& s,
                                          typename Traits::Shared& shared) {
  constexpr int kTokens = Traits::kTokens;
  LaneScanner<Traits> scanner(p, s, shared);
  LaneMover<Traits> mover(p, s, shared, threadIdx.x);
  const auto load = [&](int stage, int t0) {
    mover.load_states(t0);
    mover.load_channels(stage, t0);
  };
  load(0, 0);
  int stage = 0;
  for (int t0 = 0; t0 < p.length; t0 += kTokens, stage ^= 1) {
    copy_async_wait<0>();
    __syncthreads();
    if (t0 > 0) mover.store(stage ^ 1, t0 - kTokens);
    mover.transpose(stage);
    scanner.prepare(stage, t0);
    __syncthreads();
    if (t0 + kTokens < p.length) load(stage ^ 1, t0 + kTokens);
    scanner.scan(stage, t0);
  }
  __syncthreads();
  mover.store(stage ^ 1, (p.length - 1) / kTokens * kTokens);
  scanner.finish();
}

// A tile has been moved, and the one before scanned. Both roles wait here, each at its own place in the code, which
// __syncthreads() does not allow.
template <typename Traits>
__device__ __forceinline__ void hand_over() {
  asm volatile("barrier.sync 1, %0;" ::"n"(Traits::kThreads) : "memory");
}

// B and C come a tile ahead of the rest, to be transposed while the rest arrives.
template <typename Traits>
__device__ __forceinline__ void move_lane_tiles(LaneMover<Traits> mover, int length) {
  constexpr int kTokens = Traits::kTokens;
  const auto move = [&](int stage, int t0) {
    mover.load_channels(stage, t0);
    copy_async_wait<1>();
    __syncwarp();
    mover.transpose(stage);
    __syncwarp();
    mover.load_states(t0 + kTokens);
    copy_async_wait<1>();
  };
  mover.load_states(0);
  move(0, 0);
  int stage = 0;
  for (int t0 = 0; t0 < length; t0 += kTokens, stage ^= 1) {
    hand_over<Traits>();
    if (t0 > 0) mover.store(stage ^ 1, t0 - kTokens);
    __syncwarp();
    if (t0 + kTokens < length) move(stage ^ 1, t0 + kTokens);
  }
  hand_over<Traits>();
  mover.store(stage ^ 1, (length - 1) / kTokens * kTokens);
}

template <typename Traits>
__device__ __forceinline__ void scan_lane_tiles(LaneScanner<Traits> scanner, int length) {
  int stage = 0;
  for (int t0 = 0; t0 < length; t0 += Traits::kTokens, stage ^= 1) {
    hand_over<Traits>();
    scanner.prepare(stage, t0);
    scanner.scan(stage, t0);
  }
  hand_over<Traits>();
  scanner.finish();
}

// The last warps move tiles, the others scan.
template <typename Traits>
__device__ __forceinline__ void lane_scan_specialized(const SelectiveScanParams& p, const ScanPlace& s,
                                                      typename Traits::Shared& shared) {
  if (threadIdx.x < Traits::kScanners) {
    take_registers<Traits::kScannerRegisters>();
    scan_lane_tiles(LaneScanner<Traits>(p, s, shared), p.length);
  } else {
    give_registers<Traits::kMoverRegisters>();
    move_lane_tiles(LaneMover<Traits>(p, s, shared, threadIdx.x - Traits::kScanners), p.length);
  }
}

}  // namespace seqexport
