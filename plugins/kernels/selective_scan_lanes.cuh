// The selective scan with time over the lanes of a warp: a warp scans one channel, each lane kItems tokens in a row.
//
// Per tile of 32 * kItems tokens, which arrives in shared memory while the tile before is scanned:
//   1. B and C are transposed, so that a lane reads its tokens of one state in 16-byte words;
//   2. delta = softplus(dt + dt_bias), u = delta * x and y = D * x, in registers;
//   3. for each state: the lane's end state from zero, a prefix scan of (decay, state) over the lanes, and the
//      recurrence again from the lane's true start state with the decays still in registers, y += C * h;
//      the decays of the next state meanwhile;
//   4. y gated by silu(z), over x in shared memory, and from there to global memory a tile later.
#pragma once

#include <type_traits>

#include "async_copy.cuh"
#include "numeric.cuh"
#include "selective_scan.h"
#include "selective_scan_tile.cuh"
#include "vector.cuh"

namespace seqexport {

template <typename T_>
struct LaneScanTraits {
  using T = T_;
  static constexpr int kChannels = 12;  // of a block, a warp each
  static constexpr int kThreads = 32 * kChannels;
  static constexpr int kItems = sizeof(T) == 4 ? 8 : 16;
  static constexpr int kTokens = 32 * kItems;
  static constexpr int kStates = 16;                // at most
  static constexpr int kVector = 16 / sizeof(T);    // elements of a 16-byte word
  static constexpr int kPiece = kChannels % kVector == 0 ? kVector : kVector / 2;  // elements of one copy of a row
  static_assert(kThreads % (kChannels / kPiece) == 0 && kThreads % (kStates / kVector) == 0, "copies are whole rows");

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
  // E[kStates][kTokens]: a lane's tokens of one state in 16-byte words, the lanes side by side; the padding after all of
  // one word's spreads the words over the banks.
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
    Channels x[2], z[2], dt;
    States B, C;
    Transposed<float> b;  // C stays as it is: two of floats measured slower, as reading them takes longer
    Transposed<T> c;
    float2 state[kChannels][kStates];  // (A * log2(e), h)
  };
};

template <typename Traits>
struct LaneScanBlock {
  using T = typename Traits::T;
  using Shared = typename Traits::Shared;
  static constexpr int kItems = Traits::kItems, kVector = Traits::kVector, kPiece = Traits::kPiece;

  // Of one state: the lane's tokens, and the state before them.
  struct Steps {
    float decay[kItems], input[kItems], product, h;
  };

  const SelectiveScanParams& p;
  const ScanPlace s;
  Shared& shared;
  const int lane, channel;
  const bool vector_x, vector_bc, vector_y;
  float D, dt_bias;
  float delta[kItems], u[kItems], y[kItems], delta_sum;

  __device__ __forceinline__ LaneScanBlock(const SelectiveScanParams& p_, const ScanPlace& s_, Shared& shared_)
      : p(p_), s(s_), shared(shared_), lane(threadIdx.x % 32), channel(threadIdx.x / 32),
        vector_x(aligned_row(p_.x, p_.x_stride) && aligned_row(p_.dt, p_.dt_stride) &&
                 (!p_.z || aligned_row(p_.z, p_.z_stride))),
        vector_bc(p_.states % kVector == 0 && aligned(p_.B, p_.B_stride, 16) && aligned(p_.C, p_.C_stride, 16)),
        vector_y(aligned_row(p_.y, p_.channels)) {
    const bool valid = channel < s.width;
    const int d = s.d_begin + channel;
    D = valid && p.D ? p.D[d] : 0.f;
    dt_bias = valid && p.dt_bias ? p.dt_bias[d] : 0.f;
    if (lane >= Traits::kStates) return;
    const int64_t i = int64_t(d) * p.states + lane;
    float2& state = shared.state[channel][lane];
    state = make_float2(0.f, 0.f);
    if (!valid || lane >= p.states) return;
    state = make_float2(p.A[i] * kLog2e, p.past[int64_t(s.b) * p.channels * p.states + i]);
  }

  __device__ __forceinline__ bool aligned(const void* base, int64_t stride, int bytes) const {
    return reinterpret_cast<uintptr_t>(base) % bytes == 0 && stride * sizeof(T) % bytes == 0;
  }
  __device__ __forceinline__ bool aligned_row(const void* base, int64_t stride) const {
    return s.d_begin % kPiece == 0 && s.width % kPiece == 0 && aligned(base, stride, kPiece * sizeof(T));
  }

  // Copies the rows of a tile, `stride` apart, of which `rows` rows and `width` columns exist; zeros elsewhere.
  template <int kColumns, int kCopy, typename Tile>
  __device__ __forceinline__ void copy_rows(Tile& tile, const T* global, int stride, int rows, int width, bool vector) {
    if (vector) {
      constexpr int kPieces = kColumns / kCopy, kRows = Traits::kThreads / kPieces;
      const int t_first = threadIdx.x / kPieces, c = threadIdx.x % kPieces * kCopy;
#pragma unroll
      for (int i = 0; i < ceil_div(Traits::kTokens, kRows); ++i) {
        const int t = t_first + i * kRows;
        if (Traits::kTokens % kRows != 0 && t >= Traits::kTokens) break;
        copy_async<kCopy * sizeof(T)>(tile.at(t, c), global + (t * stride + c), t < rows && c < width);
      }
    } else {
#pragma unroll 1
      for (int i = threadIdx.x; i < Traits::kTokens * kColumns; i += Traits::kThreads) {
        const int t = i / kColumns, c = i % kColumns;
        *tile.at(t, c) = t < rows && c < width ? global[t * stride + c] : from_float<T>(0.f);
      }
    }
  }

  __device__ __forceinline__ void load_channels(typename Traits::Channels& tile, const void* base, int64_t stride,
                                                int t0) {
    const T* global = static_cast<const T*>(base) + (int64_t(s.b) * p.length + t0) * stride + s.d_begin;
    copy_rows<Traits::kChannels, kPiece>(tile, global, int(stride), s.len - t0, s.width, vector_x);
  }
  __device__ __forceinline__ void load_states(typename Traits::States& tile, const void* base, int64_t stride, int t0) {
    const T* global = static_cast<const T*>(base) + (int64_t(s.b) * p.length + t0) * stride + s.group * p.states;
    copy_rows<Traits::kStates, kVector>(tile, global, int(stride), s.len - t0, p.states, vector_bc);
  }
  __device__ __forceinline__ void load_tile(int stage, int t0) {
    load_states(shared.B, p.B, p.B_stride, t0);
    load_states(shared.C, p.C, p.C_stride, t0);
    load_channels(shared.dt, p.dt, p.dt_stride, t0);
    load_channels(shared.x[stage], p.x, p.x_stride, t0);
    if (p.z) load_channels(shared.z[stage], p.z, p.z_stride, t0);
    copy_async_commit();
  }

  // Four tokens of two states at a time; 8 x 4 of those a warp, which keeps reads and writes free of bank conflicts.
  template <typename To>
  __device__ __forceinline__ void transpose(typename Traits::States& from, To& to) {
    using E = typename To::E;
    struct alignas(2 * sizeof(T)) Pair {
      T n0, n1;
    };
    struct alignas(4 * sizeof(E)) Quad {
      E t0, t1, t2, t3;
    };
#pragma unroll 2
    for (int i = threadIdx.x; i < Traits::kTokens / 4 * (Traits::kStates / 2); i += Traits::kThreads) {
      const int t = 4 * (i / 64 * 8 + i % 8), n = 2 * (i / 8 % 8);
      Pair v[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = *reinterpret_cast<const Pair*>(from.at(t + k, n));
      *reinterpret_cast<Quad*>(to.at(n, t)) = {as<E>(v[0].n0), as<E>(v[1].n0), as<E>(v[2].n0), as<E>(v[3].n0)};
      *reinterpret_cast<Quad*>(to.at(n + 1, t)) = {as<E>(v[0].n1), as<E>(v[1].n1), as<E>(v[2].n1), as<E>(v[3].n1)};
    }
  }
  template <typename E>
  __device__ static __forceinline__ E as(T v) {
    if constexpr (std::is_same_v<E, T>) {
      return v;
    } else {
      return to_float(v);
    }
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
    for (int k = 0; k < kItems; ++k) delta[k] = to_float(element(shared.dt, k)) + dt_bias;
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
  __device__ __forceinline__ void load_tokens(const Tile& tile, int n, float (&v)[kItems]) {
#pragma unroll
    for (int w = 0; w < Tile::kWords; ++w) {
      float word[Tile::kSize];
      load_vector(&tile.words[w][(n * 33 + lane) * Tile::kSize], word);
#pragma unroll
      for (int i = 0; i < Tile::kSize; ++i) v[w * Tile::kSize + i] = word[i];
    }
  }

  __device__ __forceinline__ void begin_state(int n, Steps& steps) {
    const float2 state = shared.state[channel][n];
    float b[kItems];
    load_tokens(shared.b, n, b);
    steps.h = state.y;
    steps.product = exp2_approx(fmaf(delta_sum, state.x, kExp2Bias));
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      steps.decay[k] = exp2_approx(fmaf(delta[k], state.x, kExp2Bias));
      steps.input[k] = u[k] * b[k];
    }
  }

  // In lane 31: the state after the tile.
  __device__ __forceinline__ float finish_state(int n, const Steps& steps) {
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
    load_tokens(shared.c, n, c);
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
  __device__ __forceinline__ void scan() {
    Steps even, odd;
    begin_state(0, even);
    int n = 0;
#pragma unroll 1
    for (; n + 2 < p.states; n += 2) {
      begin_state(n + 1, odd);
      const float even_end = finish_state(n, even);
      begin_state(n + 2, even);
      keep_states(n, even_end, finish_state(n + 1, odd));
    }
    begin_state(n + 1, odd);
    const float even_end = finish_state(n, even);
    keep_states(n, even_end, finish_state(n + 1, odd));
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

  __device__ __forceinline__ void store_tile(int stage, int t0) {
    struct alignas(kPiece * sizeof(T)) Piece {
      T v[kPiece];
    };
    constexpr int kPieces = Traits::kChannels / kPiece, kRows = Traits::kThreads / kPieces;
    T* y_tile = static_cast<T*>(p.y) + (int64_t(s.b) * p.length + t0) * p.channels + s.d_begin;
    const int t_first = threadIdx.x / kPieces, c = threadIdx.x % kPieces * kPiece;
#pragma unroll
    for (int i = 0; i < ceil_div(Traits::kTokens, kRows); ++i) {
      const int t = t_first + i * kRows;
      if (t >= min(Traits::kTokens, p.length - t0) || c >= s.width) break;
      const Piece piece = *reinterpret_cast<const Piece*>(shared.x[stage].at(t, c));
      T* y_row = y_tile + (t * p.channels + c);
      if (vector_y) {
        *reinterpret_cast<Piece*>(y_row) = piece;
      } else {
#pragma unroll
        for (int k = 0; k < kPiece; ++k) {
          if (c + k < s.width) y_row[k] = piece.v[k];
        }
      }
    }
  }

  __device__ __forceinline__ void run() {
    load_tile(0, 0);
    int stage = 0;
    for (int t0 = 0; t0 < p.length; t0 += Traits::kTokens, stage ^= 1) {
      const int next = t0 + Traits::kTokens;
      copy_async_wait<0>();
      __syncthreads();
      if (t0 > 0) store_tile(stage ^ 1, t0 - Traits::kTokens);
      transpose(shared.B, shared.b);
      transpose(shared.C, shared.c);
      prepare(stage, t0);
      __syncthreads();
      if (next < p.length) load_tile(stage ^ 1, next);
      if (t0 < s.len) scan();
      finish(stage, t0);
    }
    __syncthreads();
    store_tile(stage ^ 1, (p.length - 1) / Traits::kTokens * Traits::kTokens);
    if (channel < s.width && lane < p.states) {
      p.present[(int64_t(s.b) * p.channels + s.d_begin + channel) * p.states + lane] = shared.state[channel][lane].y;
    }
  }
};

}  // namespace seqexport
