// The selective scan with time over the lanes of a warp: a warp scans one channel, each lane kItems tokens in a row.
// For N = 16 and aligned rows (lane_scan_takes).
//
// Per tile of 32 * kItems tokens, a scanning warp:
//   1. delta = softplus(dt + dt_bias), u = delta * x and y = D * x, in registers;
//   2. for each state: the lane's end state from zero, a prefix scan of (decay, state) over the lanes, and the
//      recurrence again from the lane's true start state with the decays still in registers, y += C * h;
//   3. y gated by silu(z), over x in shared memory.
// Meanwhile four moving warps take the tile before to global memory, bring the tile after, and transpose its B and C,
// so that a lane reads its tokens of one state in 16-byte words. Rows of 12 channels are so short that whoever asks for
// them waits on the load/store unit: a third of the time, when the scanning warps did it themselves.
#pragma once

#include "async_copy.cuh"
#include "numeric.cuh"
#include "selective_scan.h"
#include "selective_scan_tile.cuh"
#include "vector.cuh"

namespace seqexport {

template <typename T_>
struct LaneScanTraits {
  using T = T_;
  static constexpr int kChannels = 12;  // of a block, a scanning warp each
  static constexpr int kStates = 16;
  static constexpr int kScanThreads = 32 * kChannels, kMoveThreads = 128, kThreads = kScanThreads + kMoveThreads;
  static constexpr int kItems = sizeof(T) == 4 ? 8 : 16;
  static constexpr int kTokens = 32 * kItems;
  static constexpr int kPiece = 4;                // elements of one copy of a row of channels
  static constexpr int kVector = 16 / sizeof(T);  // of one copy of a row of states

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
  // E[kStates][kTokens]: a lane's tokens of one state in 16-byte words, the lanes side by side; the padding after each
  // word of all lanes and states spreads the words over the banks.
  template <typename E_>
  struct Transposed {
    using E = E_;
    static constexpr int kSize = 16 / sizeof(E), kWords = kItems / kSize;
    alignas(16) E words[kWords][kStates * 33 * kSize + 128 / kWords / sizeof(E)];
    __device__ __forceinline__ E* at(int n, int t) {
      return &words[t % kItems / kSize][(n * 33 + t / kItems) * kSize + t % kSize];
    }
  };
  struct Shared {
    Channels x[2], dt[2], z[2];
    States B, C;
    Transposed<float> b[2];  // C stays as it is: two of floats take longer to read than to convert
    Transposed<T> c[2];
    float2 state[kChannels][kStates];  // (A * log2(e), h)
  };
};

// Calls f(t, c) for each piece of kPiece columns in a tile that is this thread's.
template <int kThreads, int kTokens, int kColumns, int kPiece, typename F>
__device__ __forceinline__ void for_pieces(int thread, F f) {
  constexpr int kPieces = kColumns / kPiece, kTurns = kPieces == 3 ? 3 : 1, kRows = kThreads * kTurns / kPieces;
  static_assert(kThreads * kTurns % kPieces == 0 && kTokens % kRows == 0, "turns are whole rows");
#pragma unroll 4
  for (int first = 0; first < kTokens; first += kRows) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const int piece = thread + kThreads * i;
      f(first + piece / kPieces, piece % kPieces * kPiece);
    }
  }
}

__device__ __forceinline__ void convert(float from, float& to) { to = from; }
template <typename T>
__device__ __forceinline__ void convert(T from, float& to) { to = to_float(from); }
template <typename T>
__device__ __forceinline__ void convert(T from, T& to) { to = from; }

// The moving warps.
template <typename Traits>
struct LaneMover {
  using T = typename Traits::T;
  static constexpr int kTokens = Traits::kTokens, kPiece = Traits::kPiece, kMoveThreads = Traits::kMoveThreads;

  const SelectiveScanParams& p;
  const ScanPlace s;
  typename Traits::Shared& shared;
  const int thread;

  // Zeros for tokens past the row's length, and columns past `width`.
  template <int kColumns, int kCopy, typename Tile>
  __device__ __forceinline__ void load(Tile& tile, const void* base, int64_t stride, int column, int width, int t0) {
    const T* global = static_cast<const T*>(base) + (int64_t(s.b) * p.length + t0) * stride + column;
    const int rows = s.len - t0, row_stride = int(stride);
    for_pieces<kMoveThreads, kTokens, kColumns, kCopy>(thread, [&](int t, int c) {
      copy_async<kCopy * sizeof(T)>(tile.at(t, c), global + (t * row_stride + c), t < rows && c < width);
    });
  }

  __device__ __forceinline__ void load_tile(int stage, int t0) {
    constexpr int kD = Traits::kChannels, kN = Traits::kStates;
    load<kN, Traits::kVector>(shared.B, p.B, p.B_stride, s.group * kN, kN, t0);
    load<kN, Traits::kVector>(shared.C, p.C, p.C_stride, s.group * kN, kN, t0);
    load<kD, kPiece>(shared.x[stage], p.x, p.x_stride, s.d_begin, s.width, t0);
    load<kD, kPiece>(shared.dt[stage], p.dt, p.dt_stride, s.d_begin, s.width, t0);
    if (p.z) load<kD, kPiece>(shared.z[stage], p.z, p.z_stride, s.d_begin, s.width, t0);
    copy_async_commit();
  }

  // Four tokens of two states at a time; 8 x 4 of those a warp, which keeps reads and writes free of bank conflicts.
  template <typename To>
  __device__ __forceinline__ void transpose(typename Traits::States& from, To& to) {
    using E = typename To::E;
    struct alignas(2 * sizeof(T)) Pair {
      T n[2];
    };
    struct alignas(4 * sizeof(E)) Quad {
      E t[4];
    };
#pragma unroll 2
    for (int i = thread; i < kTokens / 4 * (Traits::kStates / 2); i += kMoveThreads) {
      const int t = 4 * (i / 64 * 8 + i % 8), n = 2 * (i / 8 % 8);
      Quad out[2];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const Pair pair = *reinterpret_cast<const Pair*>(from.at(t + k, n));
        convert(pair.n[0], out[0].t[k]);
        convert(pair.n[1], out[1].t[k]);
      }
      *reinterpret_cast<Quad*>(to.at(n, t)) = out[0];
      *reinterpret_cast<Quad*>(to.at(n + 1, t)) = out[1];
    }
  }

  __device__ __forceinline__ void store_tile(int stage, int t0) {
    struct alignas(kPiece * sizeof(T)) Piece {
      T v[kPiece];
    };
    T* y = static_cast<T*>(p.y) + (int64_t(s.b) * p.length + t0) * p.channels + s.d_begin;
    const int rows = p.length - t0;
    for_pieces<kMoveThreads, kTokens, Traits::kChannels, kPiece>(thread, [&](int t, int c) {
      if (t >= rows || c >= s.width) return;
      *reinterpret_cast<Piece*>(y + (t * p.channels + c)) = *reinterpret_cast<const Piece*>(shared.x[stage].at(t, c));
    });
  }

  __device__ __forceinline__ void run() {
    load_tile(0, 0);
    int stage = 0;
#pragma unroll 1
    for (int t0 = 0; t0 < p.length; t0 += kTokens, stage ^= 1) {
      copy_async_wait<0>();
      asm volatile("bar.sync 1, %0;" ::"n"(kMoveThreads) : "memory");
      transpose(shared.B, shared.b[stage]);
      transpose(shared.C, shared.c[stage]);
      __syncthreads();
      if (t0 > 0) store_tile(stage ^ 1, t0 - kTokens);
      if (t0 + kTokens < p.length) load_tile(stage ^ 1, t0 + kTokens);
    }
    __syncthreads();
    store_tile(stage ^ 1, (p.length - 1) / kTokens * kTokens);
  }
};

// A scanning warp.
template <typename Traits>
struct LaneScanner {
  using T = typename Traits::T;
  static constexpr int kItems = Traits::kItems, kTokens = Traits::kTokens, kStates = Traits::kStates;

  const SelectiveScanParams& p;
  const ScanPlace s;
  typename Traits::Shared& shared;
  const int lane, channel;
  float D, dt_bias;
  float delta[kItems], u[kItems], y[kItems], delta_sum;

  __device__ __forceinline__ LaneScanner(const SelectiveScanParams& p_, const ScanPlace& s_,
                                         typename Traits::Shared& shared_)
      : p(p_), s(s_), shared(shared_), lane(threadIdx.x % 32), channel(threadIdx.x / 32) {
    const bool valid = channel < s.width;
    const int d = s.d_begin + channel;
    D = valid && p.D ? p.D[d] : 0.f;
    dt_bias = valid && p.dt_bias ? p.dt_bias[d] : 0.f;
    if (lane >= kStates) return;
    float2& state = shared.state[channel][lane];
    state = make_float2(0.f, 0.f);
    if (valid) state = make_float2(p.A[int64_t(d) * kStates + lane] * kLog2e, p.past[state_index()]);
  }

  // Of state `lane` in F[B,D,N].
  __device__ __forceinline__ int64_t state_index() const {
    return (int64_t(s.b) * p.channels + s.d_begin + channel) * kStates + lane;
  }

  // Zeros for tokens past the row's length.
  __device__ __forceinline__ void mask(float (&values)[kItems], int t0) const {
    if (t0 + kTokens <= s.len) return;
#pragma unroll
    for (int k = 0; k < kItems; ++k) values[k] = t0 + lane * kItems + k < s.len ? values[k] : 0.f;
  }

  __device__ __forceinline__ T& element(typename Traits::Channels& tile, int k) const {
    return tile.rows[lane][k * Traits::kChannels + channel];
  }

  __device__ __forceinline__ void prepare(int stage, int t0) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) delta[k] = to_float(element(shared.dt[stage], k)) + dt_bias;
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

  template <typename Tile>
  __device__ __forceinline__ void load_tokens(const Tile& tile, int n, float (&values)[kItems]) const {
#pragma unroll
    for (int w = 0; w < Tile::kWords; ++w) {
      float word[Tile::kSize];
      load_vector(&tile.words[w][(n * 33 + lane) * Tile::kSize], word);
#pragma unroll
      for (int i = 0; i < Tile::kSize; ++i) values[w * Tile::kSize + i] = word[i];
    }
  }

  __device__ __forceinline__ void scan_state(int n, int stage) {
    const float2 state = shared.state[channel][n];
    float decay[kItems], input[kItems], product = exp2_approx(fmaf(delta_sum, state.x, kExp2Bias));
    load_tokens(shared.b[stage], n, input);
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      decay[k] = exp2_approx(fmaf(delta[k], state.x, kExp2Bias));
      input[k] *= u[k];
    }
    float end = input[0];
#pragma unroll
    for (int k = 1; k < kItems; ++k) end = fmaf(decay[k], end, input[k]);
    if (lane == 0) end = fmaf(product, state.y, end);
#pragma unroll
    for (int w = 1; w < 32; w *= 2) {
      const float end_before = __shfl_up_sync(0xffffffffu, end, w);
      const float product_before = __shfl_up_sync(0xffffffffu, product, w);
      end = lane < w ? end : fmaf(product, end_before, end);
      product = lane < w ? product : product * product_before;
    }
    const float end_before = __shfl_up_sync(0xffffffffu, end, 1);
    if (lane == 31) shared.state[channel][n].y = end;

    float h = lane > 0 ? end_before : state.y, c[kItems];
    load_tokens(shared.c[stage], n, c);
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      h = fmaf(decay[k], h, input[k]);
      y[k] = fmaf(c[k], h, y[k]);
    }
  }

  __device__ __forceinline__ void finish(int stage, int t0) {
    if (p.z) {
#pragma unroll
      for (int k = 0; k < kItems; ++k) y[k] *= silu<T>(to_float(element(shared.z[stage], k)));
    }
    mask(y, t0);
#pragma unroll
    for (int k = 0; k < kItems; ++k) element(shared.x[stage], k) = from_float<T>(y[k]);
  }

  __device__ __forceinline__ void run() {
    int stage = 0;
#pragma unroll 1
    for (int t0 = 0; t0 < p.length; t0 += kTokens, stage ^= 1) {
      __syncthreads();
      prepare(stage, t0);
      if (t0 < s.len) {
#pragma unroll 1
        for (int n = 0; n < kStates; ++n) scan_state(n, stage);
      }
      finish(stage, t0);
    }
    __syncthreads();
    if (channel < s.width && lane < kStates) p.present[state_index()] = shared.state[channel][lane].y;
  }
};

// Whether rows can be copied in the pieces that LaneMover takes them in.
template <typename T>
bool lane_scan_takes(const SelectiveScanParams& p) {
  using Traits = LaneScanTraits<T>;
  const auto aligned = [](const void* base, int64_t stride, int elements) {
    const size_t bytes = elements * sizeof(T);
    return reinterpret_cast<uintptr_t>(base) % bytes == 0 && stride * sizeof(T) % bytes == 0 &&
           stride <= INT32_MAX / Traits::kTokens;
  };
  return p.states == Traits::kStates && p.channels % (p.groups * Traits::kPiece) == 0 &&
         aligned(p.x, p.x_stride, Traits::kPiece) && aligned(p.dt, p.dt_stride, Traits::kPiece) &&
         (!p.z || aligned(p.z, p.z_stride, Traits::kPiece)) && aligned(p.y, p.channels, Traits::kPiece) &&
         aligned(p.B, p.B_stride, Traits::kVector) && aligned(p.C, p.C_stride, Traits::kVector);
}

}  // namespace seqexport
