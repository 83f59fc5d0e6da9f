// The tile loop of the selective scan: one block scans one chunk of tokens for a range of channels.
//
// A thread holds kNs states of two neighbouring channels, kSplit threads share a pair. Per tile of kTokens tokens:
//   1. raw x, dt, z, B, C arrive in shared memory, copied while the tile before is in step 3;
//   2. once per (token, channel): delta = softplus(dt + dt_bias), u = delta * x;
//   3. the recurrence, states in registers; a reduce-scatter over the kSplit threads sums C . h;
//   4. once per (token, channel): y = C . h + D * x, gated by silu(z).
#pragma once

#include "async_copy.cuh"
#include "numeric.cuh"
#include "selective_scan.h"

namespace seqexport {

struct ScanChunks {
  int count;    // chunks in time
  int tokens;   // per chunk, a multiple of every tile
  float* h;     // F[B,count,D,N]: a chunk's end state from zero, after the carry pass its start state
  float* sum;   // F[B,count,D]: the sum of delta over a chunk
};

template <typename T_, int kNs_, int kSplit_, int kTokens_ = (kSplit_ > 16 ? kSplit_ : 16)>
struct ScanTraits {
  using T = T_;
  static constexpr int kNs = kNs_;
  static constexpr int kSplit = kSplit_;
  static constexpr int kThreads = kSplit <= 4 ? 64 : (kSplit <= 16 ? 128 : 256);
  static constexpr int kThreadsPerSm = kNs == 8 ? 512 : 640;  // what 128 and 102 registers a thread allow
  static constexpr int kPairs = kThreads / kSplit;
  static constexpr int kChannels = 2 * kPairs;
  static constexpr int kStates = kNs * kSplit;
  static constexpr int kTokens = kTokens_;
  static constexpr int kStep = kTokens < kSplit ? kTokens : kSplit > 8 ? kSplit / 2 : 4;  // tokens between reductions

  struct Raw {
    alignas(16) T x[kTokens][kChannels];
    alignas(16) T dt[kTokens][kChannels];
    alignas(16) T z[kTokens][kChannels];
    alignas(16) T B[kTokens][kStates];
    alignas(16) T C[kTokens][kStates];
  };
  struct Shared {
    Raw raw[2];
    float4 delta_u[kTokens][kPairs];           // (delta, u) of both channels; later y in .x and .z
    float4 bc[kTokens][kNs / 2][kSplit];       // kNs states of B, then of C, as each thread reads them
  };
};

// Copies rows of `width` elements, `stride` apart, into a shared tile; zeros where a row or column is not valid.
template <typename T, int kRows, int kCols, int kThreads>
__device__ __forceinline__ void copy_tile(T (&tile)[kRows][kCols], const T* global, int64_t stride, int rows, int width,
                                          bool vector) {
  if (vector) {
    constexpr int V = 16 / sizeof(T), kVectors = kCols / V, kStep = kThreads / kVectors;
    const int r0 = threadIdx.x / kVectors, c = threadIdx.x % kVectors * V;
    if (kStep > kRows && r0 >= kRows) return;
    const T* source = global + r0 * stride + c;
#pragma unroll
    for (int i = 0; i < (kRows + kStep - 1) / kStep; ++i, source += kStep * stride) {
      copy_async_16(&tile[r0 + i * kStep][c], source, r0 + i * kStep < rows && c < width);
    }
  } else {
#pragma unroll 1
    for (int i = threadIdx.x; i < kRows * kCols; i += kThreads) {
      const int r = i / kCols, c = i % kCols;
      tile[r][c] = r < rows && c < width ? global[r * stride + c] : from_float<T>(0.f);
    }
  }
}

// Sums v over M neighbouring lanes; lane l is left with the sum of v[l % M] in v[0].
template <int M>
struct ReduceScatter {
  __device__ static __forceinline__ void run(float* v, int lane) {
    constexpr int kHalf = M / 2;
    const bool upper = lane & kHalf;
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      const float give = upper ? v[i] : v[i + kHalf];
      const float keep = upper ? v[i + kHalf] : v[i];
      v[i] = keep + __shfl_xor_sync(0xffffffffu, give, kHalf);
    }
    ReduceScatter<kHalf>::run(v, lane);
  }
};
template <>
struct ReduceScatter<1> {
  __device__ static __forceinline__ void run(float*, int) {}
};

// Where a block stands: its row of the batch, channel range, group and tokens, counted in the order of its scan.
struct ScanPlace {
  int b, group, d_begin, width, chunk, t_begin, t_end, len;
  int step;  // to the next token: 1, or -1 where the group runs backwards

  // Among those of all rows, the token that is the t-th of the scan; padded ones stay where they are.
  __device__ __forceinline__ int64_t token(int64_t length, int t) const {
    return b * length + (step < 0 && t < len ? len - 1 - t : t);
  }

  template <typename Traits>
  __device__ static __forceinline__ ScanPlace of(const SelectiveScanParams& p, const ScanChunks& chunks) {
    const int blocks = ceil_div(ceil_div(p.channels, p.groups), Traits::kChannels);
    ScanPlace s;
    s.b = blockIdx.z;
    s.chunk = blockIdx.y;
    s.group = blockIdx.x / blocks;
    const int first = int((int64_t(s.group) * p.channels + p.groups - 1) / p.groups);
    const int last = int((int64_t(s.group + 1) * p.channels + p.groups - 1) / p.groups);
    s.d_begin = first + int(blockIdx.x % blocks) * Traits::kChannels;
    s.width = min(last - s.d_begin, Traits::kChannels);
    s.t_begin = s.chunk * chunks.tokens;
    s.t_end = min(s.t_begin + chunks.tokens, p.length);
    s.len = p.seq_lens ? min(max(p.seq_lens[s.b], 0), p.length) : p.length;
    s.step = s.group >= p.groups - p.reverse_groups ? -1 : 1;
    return s;
  }
};

template <typename Traits, bool kLocal>
struct ScanBlock {
  using T = typename Traits::T;
  using Shared = typename Traits::Shared;
  static constexpr int kNs = Traits::kNs, kSplit = Traits::kSplit;
  // float4s a thread reads per token: its B, then its C; B0 B1 C0 C1 in one where kNs is 2.
  static constexpr int kBcVectors = kLocal && kNs > 2 ? kNs / 4 : kNs / 2;

  const SelectiveScanParams& p;
  const ScanPlace s;
  Shared& shared;
  const bool vector_x, vector_bc, pair_y;
  const int pair, sub, d;  // this thread's channels d and d + 1, states sub * kNs and on
  float a[2][kNs], h[2][kNs], delta_sum[2];
  float2 D, dt_bias;  // of the pair that this thread has in the elementwise steps, threadIdx.x % kPairs

  __device__ __forceinline__ ScanBlock(const SelectiveScanParams& p_, const ScanPlace& s_, Shared& shared_)
      : p(p_), s(s_), shared(shared_), vector_x(aligned_channels()), vector_bc(aligned_states()),
        pair_y(p_.channels % 2 == 0 && s_.d_begin % 2 == 0 && s_.width % 2 == 0 &&
               reinterpret_cast<uintptr_t>(p_.y) % (2 * sizeof(T)) == 0),
        pair(threadIdx.x / kSplit), sub(threadIdx.x % kSplit), d(s_.d_begin + 2 * int(threadIdx.x / kSplit)),
        delta_sum{0.f, 0.f}, D(load_channels(p_.D)), dt_bias(load_channels(p_.dt_bias)) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int n = 0; n < kNs; ++n) {
        const int state = sub * kNs + n;
        const bool valid = 2 * pair + c < s.width && state < p.states;
        a[c][n] = valid ? decay_rate(p.A[int64_t(d + c) * p.states + state]) : 0.f;
        h[c][n] = 0.f;
      }
    }
  }

  __device__ __forceinline__ bool aligned(const void* base, int64_t stride) const {
    return reinterpret_cast<uintptr_t>(base) % 16 == 0 && stride * sizeof(T) % 16 == 0;
  }
  __device__ __forceinline__ bool aligned_channels() const {
    return s.d_begin * sizeof(T) % 16 == 0 && s.width * sizeof(T) % 16 == 0 && aligned(p.x, p.x_stride) &&
           aligned(p.dt, p.dt_stride) && (!p.z || aligned(p.z, p.z_stride));
  }
  __device__ __forceinline__ bool aligned_states() const {
    return p.states * sizeof(T) % 16 == 0 && aligned(p.B, p.B_stride) && aligned(p.C, p.C_stride);
  }

  __device__ __forceinline__ float2 load_channels(const float* values) const {
    const int c = 2 * (threadIdx.x % Traits::kPairs);
    return make_float2(values && c < s.width ? values[s.d_begin + c] : 0.f,
                       values && c + 1 < s.width ? values[s.d_begin + c + 1] : 0.f);
  }

  // Calls f(h, offset into F[D,N]) for the states this thread owns.
  template <typename F>
  __device__ __forceinline__ void for_states(F f) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int n = 0; n < kNs; ++n) {
        const int state = sub * kNs + n;
        if (2 * pair + c < s.width && state < p.states) f(h[c][n], int64_t(d + c) * p.states + state);
      }
    }
  }

  __device__ __forceinline__ void load_tile(int stage, int t0) {
    typename Traits::Raw& raw = shared.raw[stage];
    constexpr int R = Traits::kTokens, W = Traits::kChannels, N = Traits::kStates, kT = Traits::kThreads;
    const int rows = min(min(s.t_end, s.len) - t0, R);
    const int64_t token = s.token(p.length, t0);
    const T* x = static_cast<const T*>(p.x) + token * p.x_stride + s.d_begin;
    const T* dt = static_cast<const T*>(p.dt) + token * p.dt_stride + s.d_begin;
    const T* B = static_cast<const T*>(p.B) + token * p.B_stride + s.group * p.states;
    const T* C = static_cast<const T*>(p.C) + token * p.C_stride + s.group * p.states;
    copy_tile<T, R, W, kT>(raw.x, x, s.step * p.x_stride, rows, s.width, vector_x);
    copy_tile<T, R, W, kT>(raw.dt, dt, s.step * p.dt_stride, rows, s.width, vector_x);
    copy_tile<T, R, N, kT>(raw.B, B, s.step * p.B_stride, rows, p.states, vector_bc);
    if (!kLocal) {
      copy_tile<T, R, N, kT>(raw.C, C, s.step * p.C_stride, rows, p.states, vector_bc);
      if (p.z) {
        const T* z = static_cast<const T*>(p.z) + token * p.z_stride + s.d_begin;
        copy_tile<T, R, W, kT>(raw.z, z, s.step * p.z_stride, rows, s.width, vector_x);
      }
    }
    copy_async_commit();
  }

  // In the elementwise steps thread i takes channel pair i % kPairs of every kSplit-th token.
  __device__ __forceinline__ void prepare_tile(const typename Traits::Raw& raw, int t0) {
    const int e = threadIdx.x % Traits::kPairs;
#pragma unroll
    for (int i = 0; i < ceil_div(Traits::kTokens, kSplit); ++i) {
      const int t = threadIdx.x / Traits::kPairs + i * kSplit;
      if (Traits::kTokens < kSplit && t >= Traits::kTokens) break;
      const float2 dt = load_pair(&raw.dt[t][2 * e]), x = load_pair(&raw.x[t][2 * e]);
      float delta0 = dt.x + dt_bias.x, delta1 = dt.y + dt_bias.y;
      if (p.dt_softplus) {
        delta0 = softplus<T>(delta0);
        delta1 = softplus<T>(delta1);
      }
      if (t0 + t >= s.len) delta0 = delta1 = 0.f;
      shared.delta_u[t][e] = make_float4(delta0, delta0 * x.x, delta1, delta1 * x.y);
    }
    prepare_states(raw);
  }

  __device__ __forceinline__ void prepare_states(const typename Traits::Raw& raw) {
    constexpr int kQuads = kNs >= 4 ? kNs / 4 : 1, kRow = kBcVectors * kSplit, kStep = Traits::kThreads / kRow;
    const int t0 = threadIdx.x / kRow, j = threadIdx.x % kRow / kSplit, share = threadIdx.x % kSplit;
    const T* source = (j < kQuads ? raw.B[t0] : raw.C[t0]) + share * kNs + 4 * (j % kQuads);
    float4* target = &shared.bc[t0][j][share];
#pragma unroll
    for (int i = 0; i < (Traits::kTokens + kStep - 1) / kStep; ++i) {
      if (kStep > Traits::kTokens && t0 >= Traits::kTokens) return;
      const T* row = source + i * kStep * Traits::kStates;
      float4* const out = target + i * kStep * (kNs / 2) * kSplit;
      if (kNs > 2) {
        *out = load_quad(row);
      } else {
        const float2 B = load_pair(row), C = kLocal ? B : load_pair(row + Traits::kTokens * Traits::kStates);
        *out = make_float4(B.x, B.y, C.x, C.y);
      }
    }
  }

  __device__ __forceinline__ void step(int t, float& y0, float& y1) {
    const float4 du = shared.delta_u[t][pair];
    float bc[2 * kNs];
#pragma unroll
    for (int j = 0; j < kBcVectors; ++j) {
      const float4 v = shared.bc[t][j][sub];
      bc[4 * j] = v.x, bc[4 * j + 1] = v.y, bc[4 * j + 2] = v.z, bc[4 * j + 3] = v.w;
    }
    float decay[2][kNs];
#pragma unroll
    for (int n = 0; n < kNs; ++n) {
      decay[0][n] = exp2_approx(fmaf(du.x, a[0][n], kExp2Bias));
      decay[1][n] = exp2_approx(fmaf(du.z, a[1][n], kExp2Bias));
    }
    y0 = y1 = 0.f;
#pragma unroll
    for (int n = 0; n < kNs; ++n) {
      h[0][n] = fmaf(decay[0][n], h[0][n], du.y * bc[n]);
      h[1][n] = fmaf(decay[1][n], h[1][n], du.w * bc[n]);
      if (!kLocal) {
        y0 = fmaf(h[0][n], bc[kNs + n], y0);
        y1 = fmaf(h[1][n], bc[kNs + n], y1);
      }
    }
    if (kLocal) delta_sum[0] += du.x, delta_sum[1] += du.z;
  }

  __device__ __forceinline__ void scan_tile() {
    constexpr int kStep = Traits::kStep;
#pragma unroll 1
    for (int t = 0; t < Traits::kTokens; t += kStep) {
      float y[2 * kStep];
#pragma unroll
      for (int i = 0; i < kStep; ++i) step(t + i, y[2 * i], y[2 * i + 1]);
      if (!kLocal) store_outputs(t, y);
    }
  }

  // Sums each token's y over the kSplit threads of a pair and leaves it in delta_u, .x and .z.
  __device__ __forceinline__ void store_outputs(int t, float (&y)[2 * Traits::kStep]) {
    constexpr int kLanes = kSplit < 2 * Traits::kStep ? kSplit : 2 * Traits::kStep;  // that share the values out
    constexpr int kReduce = kLanes > 1 ? kLanes : 2;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2 * Traits::kStep; i += kReduce) {
      ReduceScatter<kLanes>::run(y + i, threadIdx.x);
#pragma unroll
      for (int w = kLanes; w < kSplit; w *= 2) y[i] += __shfl_xor_sync(0xffffffffu, y[i], w);
      if (kLanes < kSplit && sub >= kLanes) continue;
      float* slot = &shared.delta_u[t + (i + sub) / 2][pair].x;
      if (kSplit == 1) {
        slot[0] = y[i];
        slot[2] = y[i + 1];
      } else {
        slot[2 * (sub % 2)] = y[i];
      }
    }
  }

  // kWhole: every token of the tile is valid, the pair is, and y takes pairs.
  template <bool kWhole>
  __device__ __forceinline__ void finish_tile(const typename Traits::Raw& raw, int t0) {
    const int e = threadIdx.x % Traits::kPairs, c = 2 * e, t_first = threadIdx.x / Traits::kPairs;
    if (!kWhole && c >= s.width) return;
    T* const y_channel = static_cast<T*>(p.y) + s.d_begin + c;
    const int64_t first = s.token(p.length, t0 + t_first);
#pragma unroll(kWhole ? ceil_div(Traits::kTokens, kSplit) : 1)
    for (int i = 0; i < ceil_div(Traits::kTokens, kSplit); ++i) {
      const int t = t_first + i * kSplit;
      if (Traits::kTokens < kSplit && t >= Traits::kTokens) return;
      if (!kWhole && t0 + t >= s.t_end) return;
      const int64_t token = kWhole ? first + i * kSplit * s.step : s.token(p.length, t0 + t);
      T* const y = y_channel + token * p.channels;
      const float4 v = shared.delta_u[t][e];
      const float2 x = load_pair(&raw.x[t][c]);
      float y0 = fmaf(D.x, x.x, v.x), y1 = fmaf(D.y, x.y, v.z);
      if (p.z) {
        const float2 z = load_pair(&raw.z[t][c]);
        y0 *= silu<T>(z.x);
        y1 *= silu<T>(z.y);
      }
      if (!kWhole && t0 + t >= s.len) y0 = y1 = 0.f;
      if (kWhole || pair_y) {
        store_pair(y, y0, y1);
      } else {
        y[0] = from_float<T>(y0);
        if (c + 1 < s.width) y[1] = from_float<T>(y1);
      }
    }
  }

  // The chunk's tokens from h on; the caller has started the first tile's copies with load_tile(0, t_begin).
  __device__ __forceinline__ void run() {
    copy_async_wait<0>();
    __syncthreads();
    prepare_tile(shared.raw[0], s.t_begin);
    int stage = 0;
    for (int t0 = s.t_begin; t0 < s.t_end; t0 += Traits::kTokens, stage ^= 1) {
      const int next = t0 + Traits::kTokens;
      __syncthreads();
      if (next < s.t_end) load_tile(stage ^ 1, next);
      if (t0 < s.len) scan_tile();
      copy_async_wait<0>();
      __syncthreads();
      if (!kLocal) {
        if (next <= s.t_end && next <= s.len && pair_y && s.width == Traits::kChannels) {
          finish_tile<true>(shared.raw[stage], t0);
        } else {
          finish_tile<false>(shared.raw[stage], t0);
        }
      }
      if (next < s.t_end) prepare_tile(shared.raw[stage ^ 1], next);
    }
  }
};

}  // namespace seqexport
