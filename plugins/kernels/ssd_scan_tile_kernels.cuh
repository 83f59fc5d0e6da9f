// The kernels that scan tiles: of a segment of time each, or of even shares of all rows.
#pragma once

#include "launch.cuh"
#include "ssd_scan_tile.cuh"
#include "ssd_scan_wgmma.cuh"

namespace seqexport {

template <typename Role_>
struct SsdRoleTag {
  using Role = Role_;
};

// body(the role of this thread's warpgroup): that of all, but where one feeds the others.
template <typename Traits, bool kLocal, typename Body>
__device__ __forceinline__ void with_ssd_role(const Body& body) {
  if constexpr (!Traits::kCompiled) {
    return;
  } else if constexpr (!Traits::kFed) {
    body(SsdRoleTag<typename Traits::template Tile<kLocal>>());
  } else {
    extern __shared__ __align__(1024) unsigned char bytes[];
    Traits::begin(bytes);
    if (threadIdx.x / Traits::kUnitThreads == Traits::kUnits) {
      give_registers<Traits::kFeedRegisters>();
      body(SsdRoleTag<typename Traits::template Feed<kLocal>>());
    } else {
      take_registers<Traits::kTileRegisters>();
      body(SsdRoleTag<typename Traits::template Tile<kLocal>>());
    }
  }
}

// Scans tokens t_begin to t_end of the rows of a block, from the states at start(place), or 0, and leaves them at
// end(place, sum) unless that is null; both are of a head whose unit is there.
template <typename Traits, bool kLocal, typename Role, typename Start, typename End>
__device__ __forceinline__ void scan_ssd_tiles(const SsdScanParams& p, const typename Traits::Access& access, int block, int b, int t_begin,
                                               int t_end, const Start& start, const End& end) {
  extern __shared__ __align__(1024) unsigned char bytes[];
  const int unit = __shfl_sync(0xffffffffu, threadIdx.x / Traits::kUnitThreads, 0);
  const SsdPlace<Traits> place(p, block, b, t_begin, t_end, unit);
  if (!place.has_work()) return;
  Role scan(p, access, place, bytes);
  if constexpr (Role::kHasStates) read_ssd_states(scan, start(place));
  scan.run();
  if constexpr (Role::kHasStates) {
    if (float* to = end(place, scan.sum)) write_ssd_states(scan, to);
  }
}

template <typename Traits, bool kLocal>
__global__ void __launch_bounds__(Traits::kLaunchThreads, Traits::kThreadsPerSm / Traits::kThreads)
    ssd_tile_kernel(SsdScanParams p, SsdSegments segments, const SEQEXPORT_GRID_CONSTANT typename Traits::Access access) {
  using Place = SsdPlace<Traits>;
  wait_for_previous_kernel();
  const int segment = blockIdx.y;
  const auto start = [&](const Place& place) -> const float* {
    if (kLocal) return nullptr;
    return segments.count > 1 ? segments.h + segments.state(p, place.b, segment, place.head)
                              : p.past + ssd_state(p, place.b, place.head);
  };
  const auto end = [&](const Place& place, float sum) -> float* {
    if (kLocal) {
      if (threadIdx.x % Traits::kUnitThreads == 0) segments.sum_of(p, place.b, segment, place.head) = sum;
      return segments.h + segments.state(p, place.b, segment, place.head);
    }
    return segment == segments.count - 1 ? p.present + ssd_state(p, place.b, place.head) : nullptr;
  };
  with_ssd_role<Traits, kLocal>([&](auto tag) {
    scan_ssd_tiles<Traits, kLocal, typename decltype(tag)::Role>(p, access, blockIdx.x, blockIdx.z,
                                                                 segment * segments.tokens,
                                                                 (segment + 1) * segments.tokens, start, end);
  });
}

// A share of the segments of all rows: block i takes the tiles from i to i + 1 of gridDim.x parts, its last segment first,
// so that its part of one that block i + 1 goes on with is done before that block needs it. `row_blocks` blocks scan a
// segment of one row of the batch.
template <typename Traits, typename Role>
__device__ __forceinline__ void scan_ssd_share(const SsdScanParams& p, const SsdSegments& segments,
                                               const typename Traits::Access& access, int row_blocks) {
  using Place = SsdPlace<Traits>;
  const int tiles = ceil_div(segments.tokens, Traits::kTokens), count = segments.count;
  const int64_t all = int64_t(row_blocks) * p.batch * count * tiles;
  const int64_t from = all * blockIdx.x / gridDim.x, to = all * (blockIdx.x + 1) / gridDim.x;
  const int first_part = int(from / tiles), first_begin = int(from % tiles);
  // A unit's states between block i and the next, so that they lie as a head's do.
  const auto between = [&](const Place& place, int i) {
    const int unit = threadIdx.x / Traits::kUnitThreads;
    const int64_t row = (int64_t(i) * Traits::kUnits + unit) * Traits::kRows - place.first_row;
    return segments.between + row * p.states;
  };
  int end = int((to - 1) % tiles) + 1;
#pragma unroll 1
  for (int part = int((to - 1) / tiles); part >= first_part; --part, end = tiles) {
    const int begin = part == first_part ? first_begin : 0, segment = part / row_blocks % count;
    if (begin > 0) {
      if (threadIdx.x == 0) wait_for_flag(segments.handed + blockIdx.x - 1);
      meet_block<Traits>();
    }
    const auto start = [&](const Place& place) -> const float* {
      return begin > 0   ? between(place, int(blockIdx.x) - 1)
             : count > 1 ? segments.h + segments.state(p, place.b, segment, place.head)
                         : p.past + ssd_state(p, place.b, place.head);
    };
    const auto finish = [&](const Place& place, float) -> float* {
      return end < tiles            ? between(place, int(blockIdx.x))
             : segment == count - 1 ? p.present + ssd_state(p, place.b, place.head)
                                    : nullptr;
    };
    const int first_token = segment * segments.tokens;
    scan_ssd_tiles<Traits, false, Role>(p, access, part % row_blocks, part / row_blocks / count,
                                        first_token + begin * Traits::kTokens, first_token + end * Traits::kTokens,
                                        start, finish);
    if (end < tiles) {
      __threadfence();
      meet_block<Traits>();
      if (threadIdx.x == 0) set_flag(segments.handed + blockIdx.x);
    }
  }
}

template <typename Traits>
__global__ void __launch_bounds__(Traits::kLaunchThreads, Traits::kThreadsPerSm / Traits::kThreads)
    ssd_shared_kernel(SsdScanParams p, SsdSegments segments, const SEQEXPORT_GRID_CONSTANT typename Traits::Access access,
                      int row_blocks) {
  wait_for_previous_kernel();
  with_ssd_role<Traits, false>([&](auto tag) {
    scan_ssd_share<Traits, typename decltype(tag)::Role>(p, segments, access, row_blocks);
  });
}

}  // namespace seqexport
