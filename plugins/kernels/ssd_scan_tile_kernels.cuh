// The kernels that scan tiles: of a segment of time each, or of even shares of all rows.
#pragma once

#include "launch.cuh"
#include "ssd_scan_tile.cuh"

namespace seqexport {

// Scans tokens t_begin to t_end of the rows of a block, from the states at start(place), and leaves them at end(place, sum)
// unless that is null; both are of a head whose warp is there.
template <typename Traits, bool kLocal, typename Start, typename End>
__device__ __forceinline__ void scan_ssd_tiles(const SsdScanParams& p, const SsdVectors& vectors, int block, int b,
                                               int t_begin, int t_end, const Start& start, const End& end) {
  extern __shared__ __align__(16) unsigned char bytes[];
  const SsdPlace<Traits> place(p, block, b, t_begin, t_end, threadIdx.x / 32);
  if (!place.has_work()) return;
  SsdTile<Traits, kLocal> scan(p, vectors, place, bytes);
  if (kLocal) {
    scan.clear();
  } else {
    scan.read_states(start(place));
  }
  scan.run();
  if (float* to = end(place, scan.sum)) scan.write_states(to);
}

template <typename Traits, bool kLocal>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kThreadsPerSm / Traits::kThreads)
    ssd_tile_kernel(SsdScanParams p, SsdSegments segments, SsdVectors vectors) {
  using Place = SsdPlace<Traits>;
  wait_for_previous_kernel();
  const int segment = blockIdx.y;
  const auto start = [&](const Place& place) -> const float* {
    return segments.count > 1 ? segments.h + segments.state(p, place.b, segment, place.head)
                              : p.past + ssd_state(p, place.b, place.head);
  };
  const auto end = [&](const Place& place, float sum) -> float* {
    if (kLocal) {
      if (threadIdx.x % 32 == 0) segments.sum_of(p, place.b, segment, place.head) = sum;
      return segments.h + segments.state(p, place.b, segment, place.head);
    }
    return segment == segments.count - 1 ? p.present + ssd_state(p, place.b, place.head) : nullptr;
  };
  scan_ssd_tiles<Traits, kLocal>(p, vectors, blockIdx.x, blockIdx.z, segment * segments.tokens,
                                 (segment + 1) * segments.tokens, start, end);
}

// Shares rows evenly among blocks: block i takes the tiles from i to i + 1 of gridDim.x parts, its last row first, so
// that its part of a row that block i + 1 goes on with is done before that block needs it.
template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kThreadsPerSm / Traits::kThreads)
    ssd_shared_kernel(SsdScanParams p, SsdSegments segments, SsdVectors vectors) {
  using Place = SsdPlace<Traits>;
  wait_for_previous_kernel();
  const int tiles = ceil_div(p.length, kSsdTokens), row_blocks = segments.rows / p.batch;
  const int64_t all = int64_t(segments.rows) * tiles;
  const int64_t from = all * blockIdx.x / gridDim.x;
  // A warp's states between block i and the next, so that they lie as a head's do.
  const auto between = [&](const Place& place, int i) {
    const int64_t row = (int64_t(i) * Traits::kWarps + threadIdx.x / 32) * Traits::kRows - place.first_row;
    return segments.h + row * p.states;
  };
#pragma unroll 1
  for (int64_t to = all * (blockIdx.x + 1) / gridDim.x; to > from;) {
    const int row = int((to - 1) / tiles);
    const int64_t first = int64_t(row) * tiles, begin = max(from, first);
    const bool is_first = begin == first, is_last = to == first + tiles;
    if (!is_first) {
      if (threadIdx.x == 0) wait_for_flag(segments.handed + blockIdx.x - 1);
      __syncthreads();
    }
    const auto start = [&](const Place& place) -> const float* {
      return is_first ? p.past + ssd_state(p, place.b, place.head) : between(place, int(blockIdx.x) - 1);
    };
    const auto end = [&](const Place& place, float) -> float* {
      return is_last ? p.present + ssd_state(p, place.b, place.head) : between(place, int(blockIdx.x));
    };
    scan_ssd_tiles<Traits, false>(p, vectors, row % row_blocks, row / row_blocks, int(begin - first) * kSsdTokens,
                                  int(to - first) * kSsdTokens, start, end);
    if (!is_last) {
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) set_flag(segments.handed + blockIdx.x);
    }
    to = begin;
  }
}

}  // namespace seqexport
