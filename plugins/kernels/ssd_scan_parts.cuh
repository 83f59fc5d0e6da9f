// Parts of the tile loop of SsdScan (ssd_scan_tile.cuh): its sizes and shared memory, where a warp stands, copies, and
// operands in TF32 and fp16.
#pragma once

#include <type_traits>

#include "async_copy.cuh"
#include "ssd_scan_common.cuh"
#include "vector.cuh"

namespace seqexport {

constexpr int kSsdTokens = 32;       // of a tile
constexpr uint32_t kLeastScore = 101;    // as kLeastWeighed: rows of S are scaled by 2^40 at most, as y is with them
constexpr uint32_t kLeastWeighed = 117;  // biased exponent: states up to 2^103 are not scaled out of float32 with them
constexpr float kMostExponent = 256;     // |log2| of a decay past which float32 has only 0 and infinity

// What may be moved 16 bytes at a time: rows of B and C, of x and z, and of y.
struct SsdVectors {
  bool states, channels, outputs;
};

// Meets all threads of a block, also where they come from different places, as roles do: bar.sync and __syncthreads may
// take all of a barrier to wait at one place.
template <typename Traits>
__device__ __forceinline__ void meet_block() {
  __syncwarp();  // where one lane worked alone
  asm volatile("barrier.sync 15, %0;" ::"n"(Traits::kThreads) : "memory");
}

template <typename Traits, bool kLocal>
struct SsdTile;

template <typename T_, int kN_, int kBands_, int kWarps_, int kThreadsPerSm_>
struct SsdTraits {
  using T = T_;
  static constexpr int kN = kN_, kBands = kBands_, kWarps = kWarps_;
  static constexpr int kUnits = kWarps, kUnitThreads = 32, kTokens = kSsdTokens;
  static constexpr int kThreads = kUnitThreads * kUnits, kRows = 16 * kBands, kPad = 8;
  static constexpr int kThreadsPerSm = kThreadsPerSm_, kLaunchThreads = kThreads;
  static constexpr bool kCompiled = true;
  template <bool kLocal>
  using Tile = SsdTile<SsdTraits, kLocal>;
  static constexpr bool kFed = false;
  using Access = SsdVectors;
  static Access access(const SsdScanParams& p) {
    const auto rows = [](const void* base, int64_t stride, int width) {
      return !base || (is_aligned_to_vectors(base) && stride % 8 == 0 && width % 8 == 0);
    };
    return {rows(p.B, p.B_stride, p.states) && rows(p.C, p.C_stride, p.states),
            rows(p.x, p.x_stride, p.head_size) && rows(p.z, p.z_stride, p.head_size), rows(p.y, 0, p.head_size)};
  }
  static bool fit(const SsdScanParams&) { return true; }

  struct Stage {
    alignas(16) T B[kSsdTokens][kN + kPad];
    alignas(16) T C[kSsdTokens][kN + kPad];
    alignas(16) T x[kWarps][kSsdTokens][kRows + kPad];
    alignas(16) T z[kWarps][kSsdTokens][kRows + kPad];  // later y
  };
  // Of one head's tokens: delta, its exponent delta A log2(e), c, 2^c, and the weight of x in the state.
  struct Steps {
    float delta[kSsdTokens], exponent[kSsdTokens], c[kSsdTokens], decay[kSsdTokens], weight[kSsdTokens];
  };
  struct Shared {
    Stage stages[2];
    Steps steps[2][kWarps];
  };
  // Of one head; rows apart so that neither its writes nor its reads meet in a bank.
  struct Scores {
    float s[kSsdTokens][kSsdTokens + 8];
  };
  static size_t shared_bytes(int heads) { return sizeof(Shared) + heads * sizeof(Scores); }
};

// Slices of kRows rows of a head, and the heads that a block can meet.
__host__ __device__ constexpr int ssd_slices(int head_size, int rows) { return ceil_div(head_size, rows); }
__host__ __device__ constexpr int ssd_block_heads(int slices, int warps) {
  return warps % slices == 0 ? warps / slices : slices % warps == 0 ? 1 : (warps - 2) / slices + 2;
}

__device__ __forceinline__ float to_tf32(float v) {
#if __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return __uint_as_float(bits);
#else
  return v;
#endif
}

// m16n8k8 with TF32 operands: a lane holds A[4]: (g, t) (g + 8, t) (g, t + 4) (g + 8, t + 4), B[2]: (t, g) (t + 4, g),
// with g = lane / 4, t = lane % 4; C as in mma.cuh.
__device__ __forceinline__ void mma_tf32(float (&c)[4], const float (&a)[4], float b0, float b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])),
                 "r"(__float_as_uint(a[3])), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
#endif
}

// The larger magnitude, of what is finite, as bits.
__device__ __forceinline__ uint32_t larger_finite(uint32_t most, float v) {
  const uint32_t magnitude = __float_as_uint(v) & 0x7fffffffu;
  return magnitude < 0x7f800000u ? max(most, magnitude) : most;
}

// A power of two that brings a row's numbers up to `most` near fp16's largest, and its inverse. The four lanes that share
// the row agree. Smaller ones than 2^(least_exponent - 127) stay as much smaller.
struct HalfScale {
  float up = 1.f, down = 1.f;
  __device__ __forceinline__ static HalfScale of(uint32_t most, uint32_t least_exponent = 15) {
    most = max(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = max(most, __shfl_xor_sync(0xffffffffu, most, 2));
    const uint32_t exponent = min(max(most >> 23, least_exponent), 254u);
    return {__uint_as_float((268u - exponent) << 23), __uint_as_float((exponent - 14u) << 23)};
  }
};

// Between blocks: what one wrote before it set a flag is seen by the one that waited for it.
__device__ __forceinline__ void set_flag(int32_t* flag) {
  __threadfence();
  *static_cast<volatile int32_t*>(flag) = 1;
}
__device__ __forceinline__ void wait_for_flag(const int32_t* flag) {
  while (*static_cast<const volatile int32_t*>(flag) == 0) __nanosleep(100);
  __threadfence();
}

// Brings a tile of `kWidth` columns to shared memory, of which `rows` and `columns` exist; what does not is 0.
template <int kWidth, int kThreads, typename T, int kStride>
__device__ __forceinline__ void ssd_copy(T (*to)[kStride], const void* base, int64_t first, int64_t stride, int rows,
                                         int columns, int thread, bool vector) {
  constexpr int kVectors = kWidth / 8, kStep = kThreads / kVectors, kSteps = ceil_div(kSsdTokens, kStep);
  static_assert(kThreads % kVectors == 0);
  const T* from = static_cast<const T*>(base) + first;
  if (vector) {
    const int row = thread / kVectors, column = thread % kVectors * 8;
    from += row * stride + column;
    const int there = column < columns ? rows - row : 0;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      if (kSsdTokens % kStep == 0 || row + i * kStep < kSsdTokens) {
        copy_async_16(&to[row + i * kStep][column], from + i * kStep * stride, i * kStep < there);
      }
    }
  } else {
#pragma unroll 1
    for (int i = thread; i < kSsdTokens * kWidth; i += kThreads) {
      const int r = i / kWidth, c = i % kWidth;
      to[r][c] = r < rows && c < columns ? from[r * stride + c] : from_float<T>(0.f);
    }
  }
}

// body(states of a unit, their place from `base` on, where the whole head's lie, how many): two neighbours where they are
// there and aligned, else one.
template <typename Tile, typename Body>
__device__ __forceinline__ void for_ssd_states(Tile& tile, const float* base, const Body& body) {
  const int states = tile.p.states;
  const bool pairs = states % 2 == 0 && reinterpret_cast<uintptr_t>(base) % 8 == 0;
  tile.for_pairs([&](float* pair, int row, int column) {
    if (row >= tile.place.rows || column >= states) return;
    const int64_t i = int64_t(tile.place.first_row + row) * states + column;
    body(pair, i, pairs ? 2 : 1);
    if (!pairs && column + 1 < states) body(pair + 1, i + 1, 1);
  });
}

// Those at `from`, or 0 if that is null.
template <typename Tile>
__device__ __forceinline__ void read_ssd_states(Tile& tile, const float* from) {
  tile.for_all([](float& v, int) { v = 0.f; });
  if (from == nullptr) return;
  for_ssd_states(tile, from, [&](float* pair, int64_t i, int count) {
    if (count == 2) {
      const float2 both = load_pair(from + i);
      pair[0] = both.x, pair[1] = both.y;
    } else {
      pair[0] = from[i];
    }
  });
}
template <typename Tile>
__device__ __forceinline__ void write_ssd_states(Tile& tile, float* to) {
  for_ssd_states(tile, to, [&](float* pair, int64_t i, int count) {
    if (count == 2) {
      store_pair(to + i, pair[0], pair[1]);
    } else {
      to[i] = pair[0];
    }
  });
}

// Where a unit stands, a warp or a warpgroup: its row of the batch, heads and tokens.
template <typename Traits>
struct SsdPlace {
  int b, group, block_head, block_heads, head, first_row;
  int rows;  // of this unit that exist, 0 if it has no work
  int t_begin, t_end, valid;

  // `block` counts those that a segment of one row of the batch takes.
  __device__ __forceinline__ SsdPlace(const SsdScanParams& p, int block, int b_, int t_begin_, int t_end_, int own_unit)
      : b(b_), t_begin(t_begin_), t_end(min(t_end_, p.length)) {
    constexpr int kUnits = Traits::kUnits;
    valid = min(ssd_valid_tokens(p, b), t_end);
    const int slices = ssd_slices(p.head_size, Traits::kRows);
    const int blocks = ceil_div(ceil_div(p.heads, p.groups) * slices, kUnits);
    group = block / blocks;
    const int first = ssd_first_head(p, group), units = (ssd_first_head(p, group + 1) - first) * slices;
    const int unit = block % blocks * kUnits, own = min(unit + own_unit, units - 1);
    block_head = first + unit / slices;
    block_heads = (min(unit + kUnits, units) - 1) / slices - unit / slices + 1;
    head = first + own / slices;
    first_row = own % slices * Traits::kRows;
    rows = unit + own_unit < units ? min(p.head_size - first_row, Traits::kRows) : 0;
  }
  __device__ __forceinline__ bool has_work() const { return block_heads > 0; }
  __device__ __forceinline__ int64_t token(const SsdScanParams& p) const { return int64_t(b) * p.length + t_begin; }
};

}  // namespace seqexport
