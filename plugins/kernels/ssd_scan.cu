// The scan of Mamba-2 (Dao & Gu 2024, "Transformers are SSMs", https://arxiv.org/abs/2405.21060, section 6).
//
//   delta = dt + dt_bias, softplus if asked, within dt_min and dt_max
//   h[p,n] <- exp(delta * A) * h[p,n] + delta * B[n] * x[p]
//   y[p] = C . h[p] + D * x[p], times silu(z[p]) if z is given
//
// Parallelisation: heads, and slices of a head's rows p, over warpgroups (sm_90a, N of 33 to 128: ssd_scan_wgmma.cuh) or
// warps; tokens in tiles of matrix products (ssd_scan_tile.cuh), or one after another where T has no tensor cores
// (ssd_scan_recurrence.cuh). If that does not fill the device, time is cut into segments, three launches: every segment's
// end state from zero and its sum of delta * A; the carry over segments; every segment again from its start state. If
// there is more than the device holds at once, its blocks share all rows evenly, and hand over the states of those in
// which a share ends. One token: ssd_scan_step.cuh.
// Floor: x, z and y once through device memory, and 4 N P + 64 P products a token and head; with segments half of the
// products again, and the states of every segment four times through the L2 cache. Measured on an H200 it is neither, but
// the instructions and waits of a warpgroup's 64 tokens: 16 a token of a warp's 16 rows p, 4 of them in the gate.
#include "ssd_scan.h"

#include <algorithm>

#include "launch.cuh"
#include "ssd_scan_recurrence.cuh"
#include "ssd_scan_step.cuh"
#include "ssd_scan_tile_kernels.cuh"

namespace seqexport {
namespace {

constexpr int kMinSegment = 64;    // tokens; a multiple of every kernel's tile
constexpr int kMinTileTokens = 8;  // of a call, for tensor cores
constexpr int kMaxSegments = 256;
// Measured on an H200: a segment's first pass by its second, a block's start and end in tokens, and a token of a block
// that has an SM for itself.
constexpr double kLocalCost = 0.4, kStartCost = 96, kAloneCost = 0.75;
constexpr int64_t kLongScan = 1 << 19;  // tokens of a head, from which on three warpgroups beat two, with bf16
constexpr int kManyHeads = 8;  // of an SM, for one token
constexpr int kCarryThreads = 128;

__global__ void __launch_bounds__(kCarryThreads) ssd_carry_kernel(SsdScanParams p, SsdSegments segments) {
  wait_for_previous_kernel();
  const int b = blockIdx.z, head = blockIdx.y, states = p.head_size * p.states;
  const int i = blockIdx.x * kCarryThreads + threadIdx.x;
  if (i >= states) return;
  const int64_t stride = int64_t(p.heads) * states;
  float* ends = segments.h + segments.state(p, b, 0, head) + i;
  const float* sums = &segments.sum_of(p, b, 0, head);
  float h = p.past[ssd_state(p, b, head) + i];
#pragma unroll 8
  for (int c = 0; c < segments.count - 1; ++c) {
    const float end = ends[c * stride];
    ends[c * stride] = h;
    h = fmaf(ssd_decay(sums[int64_t(c) * p.heads]), h, end);
  }
  ends[(segments.count - 1) * stride] = h;
}

__global__ void __launch_bounds__(kCarryThreads) ssd_clear_kernel(int32_t* flags, int count) {
  wait_for_previous_kernel();
  const int i = blockIdx.x * kCarryThreads + threadIdx.x;
  if (i < count) flags[i] = 0;
}

size_t segment_bytes(const SsdScanParams& p) {
  return size_t(p.batch) * p.heads * (size_t(p.head_size) * p.states + 1) * sizeof(float);
}

int64_t multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

// About `count` segments, which the kernels' tiles divide.
SsdSegments segments_of(const SsdScanParams& p, int64_t count) {
  SsdSegments segments = {1, p.length, nullptr, nullptr};
  if (count <= 1) return segments;
  segments.tokens = ceil_div(ceil_div(p.length, int(count)), kMinSegment) * kMinSegment;
  segments.count = ceil_div(p.length, segments.tokens);
  return segments;
}

// How long a scan takes, in tokens of a block among others on its SM, if `blocks` scan a segment of all rows and the
// device holds `slots`.
double cost_of(const SsdSegments& segments, int64_t blocks, int64_t slots) {
  const int64_t all = blocks * segments.count, waves = (all + slots - 1) / slots;
  const double passes = segments.count == 1 ? 1 : 1 + kLocalCost;
  const double alone = all <= multiprocessors() && multiprocessors() < slots ? kAloneCost : 1;
  return double(waves) * (segments.tokens * passes + kStartCost) * alone;
}

// The segments with which the device is done soonest, of those for which there is memory.
SsdSegments plan_segments(const SsdScanParams& p, int64_t blocks, int64_t slots, size_t workspace_bytes) {
  const int64_t most = std::min<int64_t>({ceil_div(p.length, kMinSegment), int64_t(workspace_bytes / segment_bytes(p)),
                                          kMaxSegments});
  if (p.segments > 0) return segments_of(p, std::min<int64_t>(p.segments, most));
  SsdSegments best = segments_of(p, 1);
  for (int64_t count = 2; count <= most; ++count) {
    const SsdSegments segments = segments_of(p, count);
    if (cost_of(segments, blocks, slots) < 0.95 * cost_of(best, blocks, slots)) best = segments;
  }
  return best;
}

// The launches of a scan in segments: `local` gives the first ones' end states from zero, `whole` scans all; both take a
// grid, of which `rows` blocks scan all rows of one segment.
template <typename Local, typename Whole>
cudaError_t launch_segments(const SsdScanParams& p, SsdSegments segments, unsigned rows, cudaStream_t stream,
                            const Local& local, const Whole& whole) {
  const dim3 grid(rows, segments.count, p.batch);
  if (segments.count == 1) return whole(grid, segments);
  segments.h = static_cast<float*>(p.workspace);
  segments.sum = segments.h + size_t(p.batch) * segments.count * p.heads * p.head_size * p.states;
  cudaError_t e = local(dim3(rows, segments.count - 1, p.batch), segments);
  if (e != cudaSuccess) return e;
  const dim3 carry_grid(ceil_div(p.head_size * p.states, kCarryThreads), p.heads, p.batch);
  e = launch(ssd_carry_kernel, carry_grid, kCarryThreads, 0, stream, p, segments);
  if (e != cudaSuccess) return e;
  return whole(grid, segments);
}

size_t bytes_of(const SsdScanParams& p, const SsdSegments& segments) {
  return segments.count > 1 ? segments.count * segment_bytes(p) : 0;
}

size_t workspace_of(const SsdScanParams& p) { return p.workspace ? p.workspace_bytes : 0; }

template <typename Traits>
struct Tiles {
  static int slices(const SsdScanParams& p) { return ssd_slices(p.head_size, Traits::kRows); }
  static size_t shared_bytes(const SsdScanParams& p) {
    return Traits::shared_bytes(ssd_block_heads(slices(p), Traits::kUnits));
  }
  static bool fit(const SsdScanParams& p) {
    const auto kernel = ssd_tile_kernel<Traits, false>;
    return Traits::fit(p) && compiled_architecture(kernel) >= 80 && compiled_threads(kernel) >= Traits::kThreads &&
           shared_bytes(p) <= shared_memory_limit();
  }
  // Blocks of all rows of one segment.
  static int blocks(const SsdScanParams& p) {
    return p.groups * ceil_div(ceil_div(p.heads, p.groups) * slices(p), Traits::kUnits);
  }
  // Blocks that the device holds at once.
  static int64_t slots(const SsdScanParams& p) {
    const size_t of_sm = size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor));
    const int64_t by_memory = int64_t(of_sm / (shared_bytes(p) + 1024));
    const int64_t held = std::min<int64_t>(Traits::kThreadsPerSm / Traits::kThreads, by_memory);
    return std::max<int64_t>(held, 1) * multiprocessors();
  }
  static SsdSegments plan(const SsdScanParams& p, size_t workspace_bytes) {
    const int64_t rows = int64_t(blocks(p)) * p.batch, held = slots(p);
    SsdSegments best = plan_segments(p, rows, held, workspace_bytes);
    if (p.segments > 0) return best;
    double least = cost_of(best, rows, held);
    for (int64_t count = 1; count <= std::min<int64_t>(ceil_div(p.length, kMinSegment), kMaxSegments); ++count) {
      SsdSegments segments = segments_of(p, count);
      segments.shared = true;
      if (rows * segments.count <= held || bytes_of(p, segments) + shared_bytes_of(p) > workspace_bytes) continue;
      const double cost = shared_cost(segments, rows, held);
      if (cost < 0.95 * least) best = segments, least = cost;
    }
    return best;
  }
  // In tokens, as cost_of has it, of shares of segments whose end states come first.
  static double shared_cost(const SsdSegments& segments, int64_t rows, int64_t held) {
    const int64_t first = rows * (segments.count - 1), waves = (first + held - 1) / held;
    const double local = double(waves) * (segments.tokens * kLocalCost + kStartCost);
    return double(rows * segments.count) / double(held) * segments.tokens + 2 * kStartCost + local;
  }
  // States between blocks, and their flags.
  static size_t between_bytes(const SsdScanParams& p) {
    return size_t(slots(p)) * Traits::kUnits * Traits::kRows * p.states * sizeof(float);
  }
  static size_t shared_bytes_of(const SsdScanParams& p) { return between_bytes(p) + slots(p) * sizeof(int32_t); }
  static size_t workspace(const SsdScanParams& p) {
    const SsdSegments segments = plan(p, SIZE_MAX);
    return bytes_of(p, segments) + (segments.shared ? shared_bytes_of(p) : 0);
  }
  static cudaError_t scan(const SsdScanParams& p, cudaStream_t stream) { return scan(p, Traits::access(p), stream); }
  static cudaError_t scan(const SsdScanParams& p, const typename Traits::Access& access, cudaStream_t stream) {
    const size_t shared = shared_bytes(p);
    const auto pass = [&](auto kernel) {
      return [&, kernel](dim3 grid, const SsdSegments& segments) {
        return launch(kernel, grid, Traits::kThreads, shared, stream, p, segments, access);
      };
    };
    SsdSegments segments = plan(p, workspace_of(p));
    const auto local = pass(ssd_tile_kernel<Traits, true>), whole = pass(ssd_tile_kernel<Traits, false>);
    if (!segments.shared) return launch_segments(p, segments, blocks(p), stream, local, whole);
    const int held = int(slots(p));
    segments.between = reinterpret_cast<float*>(static_cast<char*>(p.workspace) + bytes_of(p, segments));
    segments.handed = reinterpret_cast<int32_t*>(segments.between + between_bytes(p) / sizeof(float));
    const cudaError_t e = launch(ssd_clear_kernel, ceil_div(held, kCarryThreads), kCarryThreads, 0, stream,
                                 segments.handed, held);
    if (e != cudaSuccess) return e;
    return launch_segments(p, segments, blocks(p), stream, local, [&](dim3, const SsdSegments& all) {
      return launch(ssd_shared_kernel<Traits>, held, Traits::kThreads, shared, stream, p, all, access, blocks(p));
    });
  }
};

template <typename T, int kN>
struct Tokens {
  static int blocks(const SsdScanParams& p) { return p.heads * ceil_div(p.head_size, kSsdRows); }
  static SsdSegments plan(const SsdScanParams& p, size_t workspace_bytes) {
    return plan_segments(p, int64_t(blocks(p)) * p.batch, 4 * multiprocessors(), workspace_bytes);
  }
  static size_t workspace(const SsdScanParams& p) {
    const SsdSegments segments = plan(p, SIZE_MAX);
    return segments.count > 1 ? segments.count * segment_bytes(p) : 0;
  }
  static cudaError_t scan(const SsdScanParams& p, cudaStream_t stream) {
    const auto pass = [&](auto kernel) {
      return [&, kernel](dim3 grid, const SsdSegments& segments) {
        return launch(kernel, grid, kSsdThreads, 0, stream, p, segments);
      };
    };
    return launch_segments(p, plan(p, workspace_of(p)), blocks(p), stream, pass(ssd_recurrence_kernel<T, kN, true>),
                           pass(ssd_recurrence_kernel<T, kN, false>));
  }
};

// Products of warpgroups, or of warps for what bulk copies do not take.
template <typename Traits, typename Otherwise>
struct WarpgroupTiles : Tiles<Traits> {
  static cudaError_t scan(const SsdScanParams& p, cudaStream_t stream) {
    const typename Traits::Access access = Traits::access(p);
    return access.made ? Tiles<Traits>::scan(p, access, stream) : Tiles<Otherwise>::scan(p, stream);
  }
};

// body(the kernels that scan this call): tensor cores where they fit, else the recurrence.
template <typename T, typename Body>
auto with_scan(const SsdScanParams& p, const Body& body) {
  if constexpr (!std::is_same<T, float>::value) {
    if (p.length >= kMinTileTokens) {
      using Narrow = SsdTraits<T, 64, 2, 4, 384>;
      using Middle = SsdTraits<T, 128, 2, 4, 256>;
      using Wide = SsdTraits<T, 256, 1, 4, 256>;
      using NarrowWarpgroups = WarpgroupTiles<SsdWgmmaTraits<T, 64, 3>, Narrow>;
      using TwoWarpgroups = WarpgroupTiles<SsdWgmmaTraits<T, 128, 2>, Middle>;
      using ThreeWarpgroups = WarpgroupTiles<SsdWgmmaTraits<T, 128, 3>, Middle>;
      const bool long_scan = int64_t(p.batch) * p.heads * p.length >= kLongScan;
      if (p.states <= 64) {
        if (p.states > 32 && NarrowWarpgroups::fit(p)) return body(NarrowWarpgroups());
        if (Tiles<Narrow>::fit(p)) return body(Tiles<Narrow>());
      } else if (p.states <= 128) {
        if (!std::is_same<T, __half>::value && long_scan && ThreeWarpgroups::fit(p)) return body(ThreeWarpgroups());
        if (TwoWarpgroups::fit(p)) return body(TwoWarpgroups());
        if (Tiles<Middle>::fit(p)) return body(Tiles<Middle>());
      } else if (Tiles<Wide>::fit(p)) {
        return body(Tiles<Wide>());
      }
    }
  }
  if (p.states <= 16) return body(Tokens<T, 16>());
  if (p.states <= 64) return body(Tokens<T, 64>());
  if (p.states <= 128) return body(Tokens<T, 128>());
  return body(Tokens<T, 256>());
}

// Narrow rows of lanes where heads are many, wide ones where there are few to fill the device with.
template <typename T>
cudaError_t one_token(const SsdScanParams& p, cudaStream_t stream) {
  if (p.states <= 16) return launch_ssd_step<T, 4, 1>(p, stream);
  if (p.states <= 64) return launch_ssd_step<T, 16, 2>(p, stream);
  const bool many = int64_t(p.batch) * p.heads >= kManyHeads * multiprocessors();
  return many ? launch_ssd_step<T, 16, 4>(p, stream) : launch_ssd_step<T, 32, 4>(p, stream);
}

}  // namespace

size_t ssd_scan_workspace(const SsdScanParams& p) {
  if (p.length <= 1) return 0;
  size_t bytes = 0;
  with_type(p.dtype, [&](auto zero) {
    bytes = with_scan<decltype(zero)>(p, [&](auto scan) { return decltype(scan)::workspace(p); });
    return cudaSuccess;
  });
  return bytes;
}

cudaError_t ssd_scan(const SsdScanParams& p, cudaStream_t stream) {
  return with_type(p.dtype, [&](auto zero) {
    using T = decltype(zero);
    if (p.length == 1) return one_token<T>(p, stream);
    return with_scan<T>(p, [&](auto scan) { return decltype(scan)::scan(p, stream); });
  });
}

}  // namespace seqexport
