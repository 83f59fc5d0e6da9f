// Parts of the scan by products of warpgroups (ssd_scan_wgmma.cuh): its sizes and shared memory, what bulk copies take, and
// what the two roles of warpgroups share.
#pragma once

#include <algorithm>
#include <iterator>

#include "bulk_copy.cuh"
#include "ssd_scan_parts.cuh"
#include "wgmma.cuh"

namespace seqexport {

template <typename Traits, bool kLocal>
struct SsdWgmmaTile;
template <typename Traits, bool kLocal>
struct SsdWgmmaFeed;

template <typename T_, int kN_, int kUnits_>
struct SsdWgmmaTraits {
  using T = T_;
  static constexpr int kN = kN_, kUnits = kUnits_, kPanels = kN / 64, kRows = 64, kTokens = 64;
  static constexpr int kUnitThreads = 128, kThreads = kUnitThreads * (kUnits + 1), kThreadsPerSm = kThreads;
  static constexpr bool kHalf = std::is_same<T, __half>::value;
  static constexpr bool kCompiled = kHasWgmma;  // elsewhere the kernels are empty, and have the bounds of one warp
  static constexpr int kLaunchThreads = kCompiled ? kThreads : 32;
  template <bool kLocal>
  using Tile = SsdWgmmaTile<SsdWgmmaTraits, kLocal>;
  template <bool kLocal>
  using Feed = SsdWgmmaFeed<SsdWgmmaTraits, kLocal>;
  static constexpr bool kFed = true;
  static constexpr int kTileRegisters = kUnits == 2 ? 240 : 160, kFeedRegisters = kUnits == 2 ? 24 : 32;
  using Panel = T[kTokens][64];

  struct Access {
    CUtensorMap x, z, y;  // [B,L,H,P]
    CUtensorMap B, C;     // [B,L,G,N]
    bool made = false;
  };
  struct Stage {
    Panel B[kPanels], C[kPanels], x[kUnits], z[kUnits];
  };
  // As in SsdTraits; for S between blocks of 16 tokens, 2^(c - c[i]) from the last token i before a block to those in it,
  // and 2^(c[i] - c) d of those before it, the second block's 16, the third's 32, and the last's 48.
  struct Steps {
    float delta[kTokens], c[kTokens], decay[kTokens], weight[kTokens], within[kTokens], before[96];
  };
  __host__ __device__ static constexpr int before_block(int block) { return 8 * block * (block - 1); }
  struct Shared {
    alignas(1024) Stage stages[2];
    Panel scores[kUnits], y[kUnits];
    Steps steps[2][kUnits];
    float up[kUnits][kTokens], down[kUnits][kTokens];  // the scale of a row of S in fp16, and its inverse
    SsdPlace<SsdWgmmaTraits> places[kUnits];           // these here, since registers are short
    float skips[kUnits];
    // A stage and its steps: have come; were used. Tile i of the block, over all its scans, takes stage i % 2, and its
    // phases are number i / 2.
    BulkBarrier full[2], empty[2];
    int tiles_done;  // by the scans before this one
  };
  static_assert(sizeof(Shared) <= 227 * 1024);
  static size_t shared_bytes(int) { return sizeof(Shared); }
  // By all, before a block's first scan.
  __device__ __forceinline__ static void begin(unsigned char* bytes) {
    Shared& shared = *reinterpret_cast<Shared*>(bytes);
    if (threadIdx.x < 2) {
      shared.full[threadIdx.x].init(1 + 32 * kUnits);  // who asks for copies, and the lanes that make steps
      shared.empty[threadIdx.x].init(kUnitThreads * kUnits);
    }
    if (threadIdx.x == 0) shared.tiles_done = 0;
  }

  // Whether bulk copies take such rows, and heads fill most of their units.
  static bool fit(const SsdScanParams& p) {
    const int64_t widths[] = {p.x_stride, p.z_stride, p.B_stride, p.C_stride, p.states, p.head_size};
    const bool aligned = std::all_of(std::begin(widths), std::end(widths), [](int64_t n) { return n % 8 == 0; });
    return aligned && 5 * ssd_slices(p.head_size, kRows) * kRows <= 8 * p.head_size;
  }
  static Access access(const SsdScanParams& p) {
    Access access;
    const auto make = [&](CUtensorMap& map, const void* base, int64_t stride, int width, int count) {
      const int64_t dims[] = {width, count, p.length, p.batch}, strides[] = {width, stride, p.length * stride};
      const int box[] = {64, 1, kTokens, 1};
      return !base || make_tensor_map(map, kHalf, base, dims, strides, box);
    };
    access.made = make(access.x, p.x, p.x_stride, p.head_size, p.heads) &&
                make(access.z, p.z, p.z_stride, p.head_size, p.heads) &&
                make(access.y, p.y, int64_t(p.heads) * p.head_size, p.head_size, p.heads) &&
                make(access.B, p.B, p.B_stride, p.states, p.groups) && make(access.C, p.C, p.C_stride, p.states, p.groups);
    return access;
  }
};

// Where an element of a tile lies.
template <typename T, int kTokens>
__device__ __forceinline__ T* ssd_element(T (*panels)[kTokens][64], int token, int column) {
  return panels[column / 64][0] + panel_offset(token, column % 64 / 8) / sizeof(T) + column % 8;
}

// What both roles of a block's warpgroups know.
template <typename Traits>
struct SsdWgmmaRole {
  using T = typename Traits::T;
  using Stage = typename Traits::Stage;
  using Steps = typename Traits::Steps;
  static constexpr int kPanels = Traits::kPanels, kTokens = Traits::kTokens, kUnits = Traits::kUnits;
  static constexpr uint32_t kPanelBytes = sizeof(typename Traits::Panel);
  static constexpr bool kHalf = Traits::kHalf;

  const SsdScanParams& p;
  const typename Traits::Access& access;
  typename Traits::Shared& shared;
  uint32_t thread;  // of the warpgroup

  // `own` is the unit of the first role's warpgroups, none of the second's.
  __device__ __forceinline__ SsdWgmmaRole(const SsdScanParams& p_, const typename Traits::Access& access_,
                                          const SsdPlace<Traits>& place, int own, unsigned char* bytes)
      : p(p_), access(access_), shared(*reinterpret_cast<typename Traits::Shared*>(bytes)), thread(threadIdx.x % 128) {
    meet_block<Traits>();
    if (own < kUnits && thread == 0) {
      shared.places[own] = place;
      shared.skips[own] = p.D ? p.D[place.head] : 0.f;
    }
    meet_block<Traits>();
  }
  // By all, before the next scan.
  __device__ __forceinline__ void end() {
    meet_block<Traits>();
    if (threadIdx.x == 0) shared.tiles_done += tiles(shared.places[0]);
  }

  __device__ __forceinline__ int warp() const { return int(thread / 32); }
  __device__ __forceinline__ int lane() const { return int(thread % 32); }
  // None where a share lies past the end of a segment shorter than the others.
  __device__ __forceinline__ static int tiles(const SsdPlace<Traits>& place) {
    return ceil_div(max(place.t_end - place.t_begin, 0), kTokens);
  }
  // The tokens of the tile that begins at `token`, from the first on, that are there.
  __device__ __forceinline__ static int valid(const SsdPlace<Traits>& place, int token) { return place.valid - token; }
};

}  // namespace seqexport
