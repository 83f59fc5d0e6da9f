// The selective scan with time over the lanes of a warp: a warp scans one channel, each lane kItems tokens in a row.
//
// Per tile of 32 * kItems tokens, which arrives in shared memory while the tile before is scanned:
//   1. B and C are transposed, so that a lane reads its tokens of one state in 16-byte words;
//   2. delta = softplus(dt + dt_bias) and u = delta * x, in registers;
//   3. for each state: the lane's end state from zero, a prefix scan of (decay, state) over the lanes, and the
//      recurrence again from the lane's true start state with the decays still in registers, y += C * h;
//   4. y = y + D * x, gated by silu(z), over x in shared memory, and from there to global memory a tile later.
#pragma once

#include "async_copy.cuh"
#include "numeric.cuh"
#include "selective_scan.h"
#include "selective_scan_tile.cuh"

namespace seqexport {

template <typename T_, int kChannels_ = 12, int kUnroll_ = 2>
struct LaneScanTraits {
  using T = T_;
  static constexpr int kChannels = kChannels_;      // of a block, a warp each
  static constexpr int kUnroll = kUnroll_;          // states at a time
  static constexpr int kThreads = 32 * kChannels;
  static constexpr int kItems = sizeof(T) == 4 ? 8 : 16;
  static constexpr int kTokens = 32 * kItems;
  static constexpr int kStates = 16;                // at most
  static constexpr int kVector = 16 / sizeof(T);    // elements of a 16-byte word
  static constexpr int kPiece = kChannels % kVector == 0 ? kVector : kVector / 2;  // elements of one copy of a row
  static_assert(kStates % kUnroll == 0, "states past N are zeros");
  static_assert(kChannels % kPiece == 0, "rows of channels are copied in 8 or 16 bytes");

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
  // T[kStates][kTokens]: one lane's tokens in words 16 * (32 + 1) * kStates bytes apart, the lanes side by side.
  struct Transposed {
    alignas(16) T words[kItems / kVector][kStates][33][kVector];
    __device__ __forceinline__ T* at(int n, int t) {
      return &words[t % kItems / kVector][n][t / kItems][t % kVector];
    }
  };
  struct Shared {
    Channels x[2], z[2], dt;
    States B, C;
    Transposed b, c;
    float2 state[kChannels][kStates];  // (A * log2(e), h)
  };
};

// The elements of one 16-byte word as floats.
__device__ __forceinline__ void load_word(const float* p, float (&v)[4]) {
  const float4 q = load_quad(p);
  v[0] = q.x, v[1] = q.y, v[2] = q.z, v[3] = q.w;
}
template <typename T>
__device__ __forceinline__ void load_word(const T* p, float (&v)[8]) {
  const uint4 q = *reinterpret_cast<const uint4*>(p);
  const float2 a = unpack_pair<T>(q.x), b = unpack_pair<T>(q.y), c = unpack_pair<T>(q.z), d = unpack_pair<T>(q.w);
  v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y, v[4] = c.x, v[5] = c.y, v[6] = d.x, v[7] = d.y;
}

template <typename Traits>
struct LaneScanBlock {
  using T = typename Traits::T;
  using Shared = typename Traits::Shared;
  static constexpr int kItems = Traits::kItems, kVector = Traits::kVector, kPiece = Traits::kPiece;

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
  __device__ __forceinline__ void copy_rows(Tile& tile, const T* global, int64_t stride, int rows, int width,
                                            bool vector) {
    if (vector) {
      constexpr int kPieces = kColumns / kCopy, kStep = Traits::kThreads / kPieces;
      const int t_first = threadIdx.x / kPieces, c = threadIdx.x % kPieces * kCopy;
      const T* source = global + t_first * stride + c;
#pragma unroll
      for (int t = t_first; t < t_first + Traits::kTokens; t += kStep, source += kStep * stride) {
        if (Traits::kTokens % kStep != 0 && t >= Traits::kTokens) break;
        copy_async<kCopy * sizeof(T)>(tile.at(t, c), source, t < rows && c < width);
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
    copy_rows<Traits::kChannels, kPiece>(tile, global, stride, s.len - t0, s.width, vector_x);
  }
  __device__ __forceinline__ void load_states(typename Traits::States& tile, const void* base, int64_t stride, int t0) {
    const T* global = static_cast<const T*>(base) + (int64_t(s.b) * p.length + t0) * stride + s.group * p.states;
    copy_rows<Traits::kStates, kVector>(tile, global, stride, s.len - t0, p.states, vector_bc);
  }
  __device__ __forceinline__ void load_tile(int stage, int t0) {
    load_channels(shared.x[stage], p.x, p.x_stride, t0);
    load_channels(shared.dt, p.dt, p.dt_stride, t0);
    if (p.z) load_channels(shared.z[stage], p.z, p.z_stride, t0);
    load_states(shared.B, p.B, p.B_stride, t0);
    load_states(shared.C, p.C, p.C_stride, t0);
    copy_async_commit();
  }

  // Four tokens of two states at a time; 8 x 4 of those a warp, which keeps the reads free of bank conflicts.
  __device__ __forceinline__ void transpose(typename Traits::States& from, typename Traits::Transposed& to) {
    struct alignas(2 * sizeof(T)) Pair {
      T n0, n1;
    };
    struct alignas(4 * sizeof(T)) Quad {
      T t0, t1, t2, t3;
    };
#pragma unroll 2
    for (int i = threadIdx.x; i < Traits::kTokens / 4 * (Traits::kStates / 2); i += Traits::kThreads) {
      const int t = 4 * (i / 64 * 8 + i % 8), n = 2 * (i / 8 % 8);
      Pair v[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) v[k] = *reinterpret_cast<const Pair*>(from.at(t + k, n));
      *reinterpret_cast<Quad*>(to.at(n, t)) = {v[0].n0, v[1].n0, v[2].n0, v[3].n0};
      *reinterpret_cast<Quad*>(to.at(n + 1, t)) = {v[0].n1, v[1].n1, v[2].n1, v[3].n1};
    }
  }

  __device__ __forceinline__ void prepare(int stage, int t0) {
    delta_sum = 0.f;
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      delta[k] = to_float(shared.dt.rows[lane][k * Traits::kChannels + channel]) + dt_bias;
      if (p.dt_softplus) delta[k] = softplus(delta[k]);
      if (t0 + lane * kItems + k >= s.len) delta[k] = 0.f;
      u[k] = delta[k] * to_float(shared.x[stage].rows[lane][k * Traits::kChannels + channel]);
      y[k] = 0.f;
      delta_sum += delta[k];
    }
  }

  // States n to n + kUnroll - 1, whose chains of dependent operations overlap.
  __device__ __forceinline__ void scan_states(int n) {
    constexpr int kUnroll = Traits::kUnroll;
    float decay[kUnroll][kItems], input[kUnroll][kItems], h[kUnroll], end[kUnroll], product[kUnroll];
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const float2 state = shared.state[channel][n + i];
      end[i] = scan_from_zero(n + i, state.x, decay[i], input[i]);
      product[i] = exp2_approx(fmaf(delta_sum, state.x, kExp2Bias));
      h[i] = state.y;
      if (lane == 0) end[i] = fmaf(product[i], h[i], end[i]);
    }
#pragma unroll
    for (int w = 1; w < 32; w *= 2) {
#pragma unroll
      for (int i = 0; i < kUnroll; ++i) {
        const float end_before = __shfl_up_sync(0xffffffffu, end[i], w);
        const float product_before = __shfl_up_sync(0xffffffffu, product[i], w);
        if (lane < w) continue;
        end[i] = fmaf(product[i], end_before, end[i]);
        product[i] *= product_before;
      }
    }
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      const float start = __shfl_up_sync(0xffffffffu, end[i], 1);
      if (lane > 0) h[i] = start;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < kUnroll; ++i) {
      if (lane == 31) shared.state[channel][n + i].y = end[i];
      add_outputs(n + i, h[i], decay[i], input[i]);
    }
  }

  // The lane's end state from zero; leaves the decay and the input of every token.
  __device__ __forceinline__ float scan_from_zero(int n, float a, float (&decay)[kItems], float (&input)[kItems]) {
    float h = 0.f;
#pragma unroll
    for (int k = 0; k < kItems; k += kVector) {
      float b[kVector];
      load_word(shared.b.words[k / kVector][n][lane], b);
#pragma unroll
      for (int j = k; j < k + kVector; ++j) {
        decay[j] = exp2_approx(fmaf(delta[j], a, kExp2Bias));
        input[j] = u[j] * b[j - k];
        h = fmaf(decay[j], h, input[j]);
      }
    }
    return h;
  }

  __device__ __forceinline__ void add_outputs(int n, float h, const float (&decay)[kItems],
                                              const float (&input)[kItems]) {
#pragma unroll
    for (int k = 0; k < kItems; k += kVector) {
      float c[kVector];
      load_word(shared.c.words[k / kVector][n][lane], c);
#pragma unroll
      for (int j = k; j < k + kVector; ++j) {
        h = fmaf(decay[j], h, input[j]);
        y[j] = fmaf(c[j - k], h, y[j]);
      }
    }
  }

  __device__ __forceinline__ void finish(int stage, int t0) {
#pragma unroll
    for (int k = 0; k < kItems; ++k) {
      T& x = shared.x[stage].rows[lane][k * Traits::kChannels + channel];
      float out = fmaf(D, to_float(x), y[k]);
      if (p.z) out *= silu<T>(to_float(shared.z[stage].rows[lane][k * Traits::kChannels + channel]));
      x = from_float<T>(t0 + lane * kItems + k < s.len ? out : 0.f);
    }
  }

  __device__ __forceinline__ void store_tile(int stage, int t0) {
    struct alignas(kPiece * sizeof(T)) Piece {
      T v[kPiece];
    };
    constexpr int kPieces = Traits::kChannels / kPiece, kStep = Traits::kThreads / kPieces;
    T* y_tile = static_cast<T*>(p.y) + (int64_t(s.b) * p.length + t0) * p.channels + s.d_begin;
    const int t_first = threadIdx.x / kPieces, c = threadIdx.x % kPieces * kPiece;
#pragma unroll
    for (int t = t_first; t < t_first + Traits::kTokens; t += kStep) {
      if (t0 + t >= p.length || c >= s.width) break;
      const Piece piece = *reinterpret_cast<const Piece*>(shared.x[stage].at(t, c));
      T* y_row = y_tile + int64_t(t) * p.channels + c;
      if (vector_y) {
        *reinterpret_cast<Piece*>(y_row) = piece;
      } else {
#pragma unroll
        for (int i = 0; i < kPiece; ++i) {
          if (c + i < s.width) y_row[i] = piece.v[i];
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
      if (t0 < s.len) {
#pragma unroll 1
        for (int n = 0; n < p.states; n += Traits::kUnroll) scan_states(n);
      }
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
