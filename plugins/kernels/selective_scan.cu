// Selective scan (Mamba-1; Gu & Dao 2023, https://arxiv.org/abs/2312.00752, eq. 2 and section 3.3).
//
//   delta = dt + dt_bias, softplus if asked
//   h <- exp(delta * A) * h + delta * B * x
//   y = C . h + D * x, times silu(z) if z is given
//
// Parallelisation: channels and states over threads (selective_scan_tile.cuh); tokens one after another while that
// fills the device. If it does not: short rows with time over the lanes of a warp (selective_scan_lanes.cuh), others in
// chunks, three launches: every chunk's end state from zero and its sum of delta; the carry over chunks,
// h_start[c+1] = exp(A * sum[c]) * h_start[c] + h_end[c]; every chunk again from its start state.
// One token: a kernel of its own, 4 states a thread.
// Floor: N + 3 special-function operations per token and channel (N exp, softplus 1, silu 2), 16 per clock and SM;
// with chunks 2 N + 4, as both passes need exp(delta * A); over lanes N / 16 more (N / 8 for float), and a
// prefix scan of the lanes for every 16 (8) tokens. One token: reading and writing the state.
#include "selective_scan.h"

#include <algorithm>

#include "launch.cuh"
#include "selective_scan_lanes.cuh"
#include "selective_scan_tile.cuh"

namespace seqexport {
namespace {

constexpr int kMinChunk = 80;     // tokens; shorter chunks spend their time starting
constexpr int kEnoughWarps = 10;  // of an SM, for a scan without chunks
constexpr int kFullWarps = 16;    // of an SM, for a scan in chunks: more, shorter chunks measured slower
constexpr int kMinLaneTokens = 256, kMaxLaneTokens = 4096;  // of a row, for a scan over lanes
constexpr int kMinWavesTokens = 2048;                       // the same, where it takes several waves of blocks
constexpr int kMinLaneChannels = 8;                         // of an SM, for a scan over lanes
constexpr int64_t kMaxLaneStride = 1 << 22;                 // whose offsets in a tile fit an int

template <typename Traits, bool kLocal>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kThreadsPerSm / Traits::kThreads)
    scan_kernel(SelectiveScanParams p, ScanChunks chunks) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  const bool carries = !kLocal && chunks.count > 1;  // from the kernel before, which is ours
  if (!carries) wait_for_previous_kernel();
  const ScanPlace s = ScanPlace::of<Traits>(p, chunks);
  if (s.width <= 0) return;
  ScanBlock<Traits, kLocal> block(p, s, *reinterpret_cast<typename Traits::Shared*>(shared_bytes));
  block.load_tile(0, s.t_begin);
  const int64_t row_states = int64_t(p.channels) * p.states;
  const int64_t slot = int64_t(s.b) * chunks.count + s.chunk;
  if (!kLocal) {
    if (carries) wait_for_previous_kernel();
    const float* start = carries ? chunks.h + slot * row_states : p.past + s.b * row_states;
    block.for_states([&](float& h, int64_t i) { h = start[i]; });
  }
  block.run();
  if (kLocal) {
    block.for_states([&](float& h, int64_t i) { chunks.h[slot * row_states + i] = h; });
    if (block.sub == 0) {
      float* sum = chunks.sum + slot * p.channels + block.d;
      if (2 * block.pair < s.width) sum[0] = block.delta_sum[0];
      if (2 * block.pair + 1 < s.width) sum[1] = block.delta_sum[1];
    }
  } else if (s.chunk == chunks.count - 1) {
    block.for_states([&](float& h, int64_t i) { p.present[s.b * row_states + i] = h; });
  }
}

template <typename T>
__global__ void __launch_bounds__(LaneScanTraits<T>::kThreads, 1) lane_scan_kernel(SelectiveScanParams p) {
  using Traits = LaneScanTraits<T>;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  wait_for_previous_kernel();
  const ScanPlace s = ScanPlace::of<Traits>(p, ScanChunks{1, p.length, nullptr, nullptr});
  if (s.width <= 0) return;
  auto& shared = *reinterpret_cast<typename Traits::Shared*>(shared_bytes);
  if constexpr (Traits::kSpecialized) {
    lane_scan_specialized<Traits>(p, s, shared);
  } else {
    lane_scan<Traits>(p, s, shared);
  }
}

__global__ void carry_kernel(SelectiveScanParams p, ScanChunks chunks) {
  wait_for_previous_kernel();
  const int64_t row_states = int64_t(p.channels) * p.states;
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= row_states) return;
  const float a = decay_rate(p.A[i]);
  const int64_t first = int64_t(blockIdx.y) * chunks.count;
  float* h_chunk = chunks.h + first * row_states + i;
  const float* sum = chunks.sum + first * p.channels + i / p.states;
  float h = p.past[blockIdx.y * row_states + i];
#pragma unroll 16
  for (int c = 0; c < chunks.count - 1; ++c) {
    const float end = h_chunk[c * row_states];
    h_chunk[c * row_states] = h;
    h = fmaf(exp2_approx(fmaf(a, sum[int64_t(c) * p.channels], kExp2Bias)), h, end);
  }
  h_chunk[(chunks.count - 1) * row_states] = h;
}

constexpr int kStepThreads = 128;

// Four values from p, of which `count` exist; one access where `vector` says that p is aligned and all four exist.
template <typename T>
__device__ __forceinline__ float4 load_up_to_4(const T* p, int count, bool vector) {
  if (vector) return load_quad(p);
  return make_float4(count > 0 ? to_float(p[0]) : 0.f, count > 1 ? to_float(p[1]) : 0.f,
                     count > 2 ? to_float(p[2]) : 0.f, count > 3 ? to_float(p[3]) : 0.f);
}

// One token: kLanes neighbouring lanes share a channel, four states at a time each.
template <typename T, int kLanes>
__global__ void __launch_bounds__(kStepThreads) step_kernel(SelectiveScanParams p, bool vector) {
  const int i = blockIdx.x * kStepThreads + threadIdx.x, b = blockIdx.y;
  const int lane = i % kLanes, d = min(i / kLanes, p.channels - 1);
  const int64_t state = (int64_t(b) * p.channels + d) * p.states;
  const float* A = p.A + int64_t(d) * p.states;
  if (lane * 4 < p.states) prefetch_to_l2(A + lane * 4), prefetch_to_l2(p.past + state + lane * 4);
  wait_for_previous_kernel();
  const bool owner = i / kLanes < p.channels, valid = !p.seq_lens || p.seq_lens[b] > 0;
  const float x = valid ? to_float(static_cast<const T*>(p.x)[b * p.x_stride + d]) : 0.f;
  float delta = valid ? to_float(static_cast<const T*>(p.dt)[b * p.dt_stride + d]) : 0.f;
  if (p.dt_bias) delta += p.dt_bias[d];
  if (p.dt_softplus) delta = softplus<T>(delta);
  const float u = delta * x;
  const int group = int(int64_t(d) * p.groups / p.channels);
  const T* B = static_cast<const T*>(p.B) + b * p.B_stride + group * p.states;
  const T* C = static_cast<const T*>(p.C) + b * p.C_stride + group * p.states;

  float y = 0.f;
  for (int n = lane * 4; n < p.states; n += kLanes * 4) {
    const int count = min(p.states - n, 4);
    float4 h = load_up_to_4(p.past + state + n, count, vector);
    if (valid) {
      const float4 a = load_up_to_4(A + n, count, vector);
      const float4 in = load_up_to_4(B + n, count, vector), out = load_up_to_4(C + n, count, vector);
      const float scale = delta * kLog2e;
      h.x = fmaf(exp2_approx(fmaf(scale, a.x, kExp2Bias)), h.x, u * in.x);
      h.y = fmaf(exp2_approx(fmaf(scale, a.y, kExp2Bias)), h.y, u * in.y);
      h.z = fmaf(exp2_approx(fmaf(scale, a.z, kExp2Bias)), h.z, u * in.z);
      h.w = fmaf(exp2_approx(fmaf(scale, a.w, kExp2Bias)), h.w, u * in.w);
      y = fmaf(out.x, h.x, fmaf(out.y, h.y, fmaf(out.z, h.z, fmaf(out.w, h.w, y))));
    }
    float* present = p.present + state + n;
    if (!owner) continue;
    if (vector) {
      *reinterpret_cast<float4*>(present) = h;
    } else {
      const float values[4] = {h.x, h.y, h.z, h.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (k < count) present[k] = values[k];
      }
    }
  }
#pragma unroll
  for (int w = kLanes / 2; w >= 1; w /= 2) y += __shfl_xor_sync(0xffffffffu, y, w);
  if (lane != 0 || !owner) return;
  if (p.D) y = fmaf(p.D[d], x, y);
  if (p.z && valid) y *= silu<T>(to_float(static_cast<const T*>(p.z)[b * p.z_stride + d]));
  static_cast<T*>(p.y)[int64_t(b) * p.channels + d] = from_float<T>(valid ? y : 0.f);
}

struct ScanPlan {
  int ns, split, chunk_tokens, chunks;
  bool lanes;  // time over lanes; else states over threads
};

size_t chunk_bytes(const SelectiveScanParams& p) {
  return size_t(p.batch) * p.channels * (size_t(p.states) + 1) * sizeof(float);
}

// Warps on an SM if `split` threads share a channel pair.
int64_t warps_per_sm(const SelectiveScanParams& p, int split) {
  return int64_t(p.batch) * p.channels * split / 64 / device_attribute(cudaDevAttrMultiProcessorCount);
}

// Chunks with which the device holds kFullWarps on every SM.
int64_t chunks_at_once(const SelectiveScanParams& p, int split) {
  const int64_t slots = int64_t(kFullWarps) * device_attribute(cudaDevAttrMultiProcessorCount);
  return std::max<int64_t>(slots * 64 / (int64_t(p.batch) * p.channels * split), 1);
}

// How the scan over lanes was compiled for this device.
struct LaneScanShape {
  int threads;
  size_t shared_bytes;
};

template <typename T>
LaneScanShape lane_scan_shape() {
  using Together = LaneScanTraits<T, false>;
  using Specialized = LaneScanTraits<T, true>;
  if (compiled_threads(lane_scan_kernel<T>) < Specialized::kThreads) {
    return {Together::kThreads, sizeof(typename Together::Shared)};
  }
  return {Specialized::kThreads, sizeof(typename Specialized::Shared)};
}

template <typename T>
int lane_scan_blocks(const SelectiveScanParams& p) {
  return p.groups * ceil_div(ceil_div(p.channels, p.groups), LaneScanTraits<T>::kChannels);
}

// Whether blocks, of which one SM holds one, leave few SMs without any: in one wave, or in several full ones.
template <typename T>
bool lane_scan_fills(const SelectiveScanParams& p) {
  const int64_t sms = device_attribute(cudaDevAttrMultiProcessorCount);
  const int64_t blocks = int64_t(p.batch) * lane_scan_blocks<T>(p), waves = (blocks + sms - 1) / sms;
  const int64_t channels = int64_t(p.batch) * p.channels;
  const bool fills = waves == 1 ? channels >= kMinLaneChannels * sms
                                : p.length >= kMinWavesTokens && 7 * blocks >= 6 * waves * sms;
  return fills && lane_scan_shape<T>().shared_bytes <= shared_memory_limit();
}

// Whether a scan over lanes pays: for rows neither too short to fill tiles nor so long that chunks do well.
bool lane_scan_pays(const SelectiveScanParams& p) {
  if (p.length < kMinLaneTokens || p.length > kMaxLaneTokens) return false;
  const int64_t stride = std::max({p.x_stride, p.dt_stride, p.z_stride, p.B_stride, p.C_stride});
  if (std::max<int64_t>(stride, p.channels) > kMaxLaneStride) return false;
  return p.dtype == SEQEXPORT_FLOAT32 ? lane_scan_fills<float>(p) : lane_scan_fills<Bfloat16>(p);
}

// States a thread (fewer cost more shared-memory reads, and give more warps), then lanes or chunks.
//   1. As few threads as N needs where they fill the device, else for 8 < N <= 16 more of them.
//   2. If there are still too few, for 8 < N <= 16 time over lanes where that pays.
//   3. Else the cheapest thread shape and as many chunks as run at once.
//   4. Chunks no shorter than kMinChunk, and no more than the workspace holds.
ScanPlan plan_scan(const SelectiveScanParams& p, size_t workspace_bytes) {
  ScanPlan plan = {8, 1, p.length, 1, false};
  while (plan.ns * plan.split < p.states) plan.split *= 2;
  if (plan.split == 2 && warps_per_sm(p, 2) < kFullWarps) {
    if (warps_per_sm(p, 4) >= kEnoughWarps) {
      plan.ns = 4, plan.split = 4;
    } else if (warps_per_sm(p, 8) >= kEnoughWarps) {
      plan.ns = 2, plan.split = 8;
    }
  }
  int64_t chunks = p.chunks;
  if (chunks == 0 && plan.split == 2 && warps_per_sm(p, 2) < kEnoughWarps) {
    plan.lanes = lane_scan_pays(p);
    if (plan.lanes) return plan;
  }
  if (chunks == 0 && warps_per_sm(p, plan.split) < kEnoughWarps) {
    chunks = chunks_at_once(p, plan.split);
    if (plan.split == 2 && p.length / chunks < kMinChunk) {
      plan.ns = 4, plan.split = 4;
      chunks = chunks_at_once(p, plan.split);
    }
    chunks = std::min<int64_t>(chunks, p.length / kMinChunk);
  }
  chunks = std::min<int64_t>({chunks, int64_t(workspace_bytes / chunk_bytes(p)), 65535});
  if (chunks <= 1) return plan;
  const int tile = plan.split > 16 ? 32 : 16;
  plan.chunk_tokens = ceil_div(ceil_div(p.length, int(chunks)), tile) * tile;
  plan.chunks = ceil_div(p.length, plan.chunk_tokens);
  return plan;
}

template <typename Traits>
cudaError_t launch_scan(const SelectiveScanParams& p, const ScanPlan& plan, cudaStream_t stream) {
  ScanChunks chunks = {plan.chunks, plan.chunk_tokens, static_cast<float*>(p.workspace), nullptr};
  chunks.sum = chunks.h + size_t(p.batch) * plan.chunks * p.channels * p.states;
  const int blocks = p.groups * ceil_div(ceil_div(p.channels, p.groups), Traits::kChannels);
  const size_t shared = sizeof(typename Traits::Shared);
  const dim3 grid(blocks, plan.chunks, p.batch);
  if (plan.chunks == 1) return launch(scan_kernel<Traits, false>, grid, Traits::kThreads, shared, stream, p, chunks);

  const dim3 local_grid(blocks, plan.chunks - 1, p.batch);
  cudaError_t e = launch(scan_kernel<Traits, true>, local_grid, Traits::kThreads, shared, stream, p, chunks);
  if (e != cudaSuccess) return e;
  const int carry_threads = 128;
  const int64_t row_states = int64_t(p.channels) * p.states;
  const dim3 carry_grid(unsigned((row_states + carry_threads - 1) / carry_threads), p.batch);
  e = launch(carry_kernel, carry_grid, carry_threads, 0, stream, p, chunks);
  if (e != cudaSuccess) return e;
  return launch(scan_kernel<Traits, false>, grid, Traits::kThreads, shared, stream, p, chunks);
}

template <typename T>
cudaError_t launch_lane_scan(const SelectiveScanParams& p, cudaStream_t stream) {
  const dim3 grid(lane_scan_blocks<T>(p), 1, p.batch);
  const LaneScanShape shape = lane_scan_shape<T>();
  return launch(lane_scan_kernel<T>, grid, shape.threads, shape.shared_bytes, stream, p);
}

// More than 128 states: tiles of 32 tokens where they fit, else of 8, which fit every device.
template <typename T>
cudaError_t launch_wide_scan(const SelectiveScanParams& p, const ScanPlan& plan, cudaStream_t stream) {
  using Traits = ScanTraits<T, 8, 32>;
  using SmallTraits = ScanTraits<T, 8, 32, 8>;
  static_assert(sizeof(typename SmallTraits::Shared) <= 64 * 1024, "sm_75 has no more");
  return sizeof(typename Traits::Shared) <= shared_memory_limit() ? launch_scan<Traits>(p, plan, stream)
                                                                  : launch_scan<SmallTraits>(p, plan, stream);
}

template <typename T>
cudaError_t dispatch_scan(const SelectiveScanParams& p, cudaStream_t stream) {
  const ScanPlan plan = plan_scan(p, p.workspace ? p.workspace_bytes : 0);
  if (plan.lanes) return launch_lane_scan<T>(p, stream);
  if (plan.ns == 2) return launch_scan<ScanTraits<T, 2, 8>>(p, plan, stream);
  if (plan.ns == 4) return launch_scan<ScanTraits<T, 4, 4>>(p, plan, stream);
  switch (plan.split) {
    case 1: return launch_scan<ScanTraits<T, 8, 1>>(p, plan, stream);
    case 2: return launch_scan<ScanTraits<T, 8, 2>>(p, plan, stream);
    case 4: return launch_scan<ScanTraits<T, 8, 4>>(p, plan, stream);
    case 8: return launch_scan<ScanTraits<T, 8, 8>>(p, plan, stream);
    case 16: return launch_scan<ScanTraits<T, 8, 16>>(p, plan, stream);
    case 32: return launch_wide_scan<T>(p, plan, stream);
    default: return cudaErrorInvalidValue;
  }
}

template <typename T, int kLanes>
cudaError_t launch_step(const SelectiveScanParams& p, cudaStream_t stream) {
  const dim3 grid(unsigned((int64_t(p.channels) * kLanes + kStepThreads - 1) / kStepThreads), p.batch);
  bool vector = p.states % 4 == 0 && p.B_stride % 4 == 0 && p.C_stride % 4 == 0;
  for (const void* tensor : {p.B, p.C, static_cast<const void*>(p.A), static_cast<const void*>(p.past),
                             static_cast<const void*>(p.present)}) {
    vector = vector && reinterpret_cast<uintptr_t>(tensor) % 16 == 0;
  }
  return launch(step_kernel<T, kLanes>, grid, kStepThreads, 0, stream, p, vector);
}

template <typename T>
cudaError_t dispatch_length(const SelectiveScanParams& p, cudaStream_t stream) {
  if (p.length > 1) return dispatch_scan<T>(p, stream);
  return p.states <= 4 ? launch_step<T, 1>(p, stream)
       : p.states <= 16 ? launch_step<T, 4>(p, stream)
                        : launch_step<T, 32>(p, stream);
}

}  // namespace

size_t selective_scan_workspace(const SelectiveScanParams& p) {
  if (p.length <= 1) return 0;
  const ScanPlan plan = plan_scan(p, SIZE_MAX);
  return plan.chunks > 1 ? plan.chunks * chunk_bytes(p) : 0;
}

cudaError_t selective_scan(const SelectiveScanParams& p, cudaStream_t stream) {
  return with_type(p.dtype, [&](auto zero) { return dispatch_length<decltype(zero)>(p, stream); });
}

}  // namespace seqexport
