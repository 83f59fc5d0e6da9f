// A tile of the scan over lanes (selective_scan_lanes.cuh) in shared memory, and the threads that move it.
//
// All threads of a block move a tile together, between barriers. Or warps of their own do, one tile ahead of those that
// scan (warp specialisation), which has to leave the scanning warps most of their registers: sm_90a can.
#pragma once

#include "async_copy.cuh"
#include "numeric.cuh"
#include "selective_scan.h"
#include "selective_scan_tile.cuh"

namespace seqexport {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kLaneScanSpecialized = true;
#else
constexpr bool kLaneScanSpecialized = false;
#endif

template <typename T_, bool kSpecialized_ = kLaneScanSpecialized>
struct LaneScanTraits {
  using T = T_;
  static constexpr bool kSpecialized = kSpecialized_;
  static constexpr int kChannels = 12;              // of a block, a scanning warp each
  static constexpr int kScanners = 32 * kChannels;  // threads
  static constexpr int kMovers = kSpecialized ? 128 : 0;
  static constexpr int kThreads = kScanners + kMovers;
  static constexpr int kScannerRegisters = 152, kMoverRegisters = 56;
  static_assert(kScanners * kScannerRegisters + kMovers * kMoverRegisters <= 65536, "an SM has no more registers");
  static constexpr int kItems = sizeof(T) == 4 ? 8 : 16;  // tokens of a lane
  static constexpr int kTokens = 32 * kItems;
  static constexpr int kStates = 16;              // at most
  static constexpr int kVector = 16 / sizeof(T);  // elements of a 16-byte word
  static constexpr int kPiece = kChannels % kVector == 0 ? kVector : kVector / 2;  // elements of one copy of a row

  // Threads that move the same tokens: a moving warp, or all.
  static constexpr int kTeam = kSpecialized ? 32 : kScanners;
  static constexpr int kTeamTokens = kSpecialized ? 32 * kTokens / kMovers : kTokens;

  // T[kTokens][kChannels]; the padding after each lane's rows spreads the lanes over the banks.
  struct Channels {
    alignas(16) T rows[32][kItems * kChannels + kPiece];
    __device__ __forceinline__ T* at(int t, int c) { return &rows[t / kItems][t % kItems * kChannels + c]; }
  };
  // T[kTokens][kStates], padded for the transposition.
  struct States {
    alignas(16) T rows[kTokens / 4][4 * kStates + kVector];
    __device__ __forceinline__ T* at(int t, int n) { return &rows[t / 4][t % 4 * kStates + n]; }
  };
  // T[kStates][kTokens]: a lane's tokens of one state in 16-byte words, the lanes side by side; the padding after all of
  // one word's spreads the words over the banks.
  struct Transposed {
    static constexpr int kWords = kItems / kVector;
    alignas(16) T words[kWords][kStates * 33 * kVector + 128 / kWords / sizeof(T)];
    __device__ __forceinline__ T* at(int n, int t) {
      return &words[t % kItems / kVector][(n * 33 + t / kItems) * kVector + t % kVector];
    }
  };
  // What is moved one tile ahead where warps of their own do.
  struct Inputs {
    Channels dt;
    Transposed B, C;
  };
  struct Shared {
    Channels x[2], z[2];  // y comes to lie over x
    Inputs inputs[kSpecialized ? 2 : 1];
    States B, C;  // as they arrive
    float2 state[kChannels][kStates];  // (A * log2(e), h)

    __device__ __forceinline__ Inputs& input(int stage) { return inputs[kSpecialized ? stage : 0]; }
  };
};

// Moves its team's tokens of each tile.
template <typename Traits>
struct LaneMover {
  using T = typename Traits::T;
  static constexpr int kTeam = Traits::kTeam, kTokens = Traits::kTeamTokens, kPiece = Traits::kPiece;

  const SelectiveScanParams& p;
  const ScanPlace& s;
  typename Traits::Shared& shared;
  const int thread, first;  // in the team; the team's first token of a tile
  const bool vector_x, vector_bc, vector_y;

  __device__ __forceinline__ LaneMover(const SelectiveScanParams& p_, const ScanPlace& s_,
                                       typename Traits::Shared& shared_, int thread_)
      : p(p_), s(s_), shared(shared_), thread(Traits::kSpecialized ? thread_ % kTeam : thread_),
        first(Traits::kSpecialized ? thread_ / kTeam * kTokens : 0),
        vector_x(aligned_row(p_.x, p_.x_stride) && aligned_row(p_.dt, p_.dt_stride) &&
                 (!p_.z || aligned_row(p_.z, p_.z_stride))),
        vector_bc(p_.states % Traits::kVector == 0 && aligned(p_.B, p_.B_stride, 16) &&
                  aligned(p_.C, p_.C_stride, 16)),
        vector_y(aligned_row(p_.y, p_.channels)) {}

  __device__ __forceinline__ bool aligned(const void* base, int64_t stride, int bytes) const {
    return reinterpret_cast<uintptr_t>(base) % bytes == 0 && stride * sizeof(T) % bytes == 0;
  }
  __device__ __forceinline__ bool aligned_row(const void* base, int64_t stride) const {
    return s.d_begin % kPiece == 0 && s.width % kPiece == 0 && aligned(base, stride, kPiece * sizeof(T));
  }

  // Calls f(t, c) for the thread's share of the team's tokens, kSize columns from c on at a time; in turns, as a thread
  // keeps its columns as long as it can.
  template <int kColumns, int kSize, typename F>
  __device__ __forceinline__ void for_pieces(F f) const {
    constexpr int kPieces = kColumns / kSize;
    constexpr int kTurns = kTeam % kPieces == 0 ? 1 : kPieces;  // until a thread comes to the same columns again
    constexpr int kRows = kTeam * kTurns / kPieces;
#pragma unroll 1
    for (int turn = 0; turn < kTurns; ++turn) {
      const int piece = thread + turn * kTeam, t_first = piece / kPieces, c = piece % kPieces * kSize;
#pragma unroll 4
      for (int i = 0; i < ceil_div(kTokens, kRows); ++i) {
        const int t = t_first + i * kRows;
        if (kTokens % kRows != 0 && t >= kTokens) break;
        f(first + t, c);
      }
    }
  }

  // Copies the rows of a tile, `stride` apart, of which `rows` rows and `width` columns exist; zeros elsewhere.
  template <int kColumns, int kCopy, typename Tile>
  __device__ __forceinline__ void copy_rows(Tile& tile, const T* global, int stride, int rows, int width, bool vector) {
    if (vector) {
      for_pieces<kColumns, kCopy>([&](int t, int c) {
        copy_async<kCopy * sizeof(T)>(tile.at(t, c), global + (t * stride + c), t < rows && c < width);
      });
    } else {
#pragma unroll 1
      for (int i = thread; i < kTokens * kColumns; i += kTeam) {
        const int t = first + i / kColumns, c = i % kColumns;
        *tile.at(t, c) = t < rows && c < width ? global[t * stride + c] : from_float<T>(0.f);
      }
    }
  }

  __device__ __forceinline__ void load_channels(typename Traits::Channels& tile, const void* base, int64_t stride,
                                                int t0) {
    const T* global = static_cast<const T*>(base) + s.token(p.length, t0) * stride + s.d_begin;
    copy_rows<Traits::kChannels, kPiece>(tile, global, s.step * int(stride), s.len - t0, s.width, vector_x);
  }
  __device__ __forceinline__ void load_states(typename Traits::States& tile, const void* base, int64_t stride, int t0) {
    const T* global = static_cast<const T*>(base) + s.token(p.length, t0) * stride + s.group * p.states;
    copy_rows<Traits::kStates, Traits::kVector>(tile, global, s.step * int(stride), s.len - t0, p.states, vector_bc);
  }
  __device__ __forceinline__ void load_states(int t0) {
    load_states(shared.B, p.B, p.B_stride, t0);
    load_states(shared.C, p.C, p.C_stride, t0);
    copy_async_commit();
  }
  __device__ __forceinline__ void load_channels(int stage, int t0) {
    load_channels(shared.input(stage).dt, p.dt, p.dt_stride, t0);
    load_channels(shared.x[stage], p.x, p.x_stride, t0);
    if (p.z) load_channels(shared.z[stage], p.z, p.z_stride, t0);
    copy_async_commit();
  }

  // Four tokens of two states at a time; 8 x 4 of those a warp, which keeps reads and writes free of bank conflicts.
  __device__ __forceinline__ void transpose(typename Traits::States& from, typename Traits::Transposed& to) {
    struct alignas(2 * sizeof(T)) Pair {
      T n0, n1;
    };
    struct alignas(4 * sizeof(T)) Quad {
      T t0, t1, t2, t3;
    };
#pragma unroll 2
    for (int i = thread; i < kTokens / 4 * (Traits::kStates / 2); i += kTeam) {
      const int t = first + 4 * (i / 64 * 8 + i % 8), n = 2 * (i / 8 % 8);
      Pair v[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = *reinterpret_cast<const Pair*>(from.at(t + k, n));
      *reinterpret_cast<Quad*>(to.at(n, t)) = {v[0].n0, v[1].n0, v[2].n0, v[3].n0};
      *reinterpret_cast<Quad*>(to.at(n + 1, t)) = {v[0].n1, v[1].n1, v[2].n1, v[3].n1};
    }
  }
  __device__ __forceinline__ void transpose(int stage) {
    transpose(shared.B, shared.input(stage).B);
    transpose(shared.C, shared.input(stage).C);
  }

  __device__ __forceinline__ void store(int stage, int t0) {
    struct alignas(kPiece * sizeof(T)) Piece {
      T v[kPiece];
    };
    T* const y = static_cast<T*>(p.y) + s.d_begin;
    const int rows = p.length - t0;
    for_pieces<Traits::kChannels, kPiece>([&](int t, int c) {
      if (t >= rows || c >= s.width) return;
      const Piece piece = *reinterpret_cast<const Piece*>(shared.x[stage].at(t, c));
      T* y_row = y + s.token(p.length, t0 + t) * p.channels + c;
      if (vector_y) {
        *reinterpret_cast<Piece*>(y_row) = piece;
      } else {
#pragma unroll
        for (int k = 0; k < kPiece; ++k) {
          if (c + k < s.width) y_row[k] = piece.v[k];
        }
      }
    });
  }
};

}  // namespace seqexport
