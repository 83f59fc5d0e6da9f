// What a block of ssd_scan_tile.cuh has in shared memory: the next tile, the steps of its heads, and S.
#pragma once

#include <cstddef>

#include "mma.cuh"
#include "ssd_scan_parts.cuh"

namespace seqexport {

template <typename Traits, bool kLocal>
struct SsdTileScores {
  using T = typename Traits::T;
  using Stage = typename Traits::Stage;
  using Steps = typename Traits::Steps;
  using Scores = typename Traits::Scores;
  static constexpr int kN = Traits::kN, kWarps = Traits::kWarps, kRows = Traits::kRows;
  static constexpr int kStride = kN + Traits::kPad;  // of B and C

  const SsdScanParams& p;
  const SsdVectors vectors;
  typename Traits::Shared& shared;
  Scores* const scores;
  const uint32_t base;  // of shared, for ldmatrix
  int thread;
  const SsdPlace<Traits>& place;
  const float rate, bias;  // of the head whose steps this warp makes

  __device__ __forceinline__ SsdTileScores(const SsdScanParams& p_, const SsdVectors& vectors_,
                                           const SsdPlace<Traits>& place_,
                                           unsigned char* bytes)
      : p(p_), vectors(vectors_), shared(*reinterpret_cast<typename Traits::Shared*>(bytes)),
        scores(reinterpret_cast<Scores*>(bytes + sizeof(typename Traits::Shared))), base(shared_address(bytes)),
        thread(threadIdx.x), place(place_), rate(decay_rate(p.A[place.block_head + max(step_head(), 0)])),
        bias(p.dt_bias ? p.dt_bias[place.block_head + max(step_head(), 0)] : 0.f) {}

  __device__ __forceinline__ int warp() const { return thread / 32; }
  __device__ __forceinline__ int lane() const { return thread % 32; }
  __device__ __forceinline__ int g() const { return thread % 32 / 4; }
  __device__ __forceinline__ int t2() const { return thread % 4 * 2; }

  // Where ldmatrix finds this lane's row of a tile: 16 rows by two columns of 8, or 8 rows by four, or two by 8 rows.
  template <int kStride>
  __device__ __forceinline__ uint32_t rows_then_columns() const {
    return (thread % 16 * kStride + thread % 32 / 16 * 8) * uint32_t(sizeof(T));
  }
  template <int kStride>
  __device__ __forceinline__ uint32_t columns_of_8_rows() const {
    return (thread % 8 * kStride + thread % 32 / 8 * 8) * uint32_t(sizeof(T));
  }
  template <int kStride>
  __device__ __forceinline__ uint32_t columns_then_rows() const {
    return ((thread % 32 / 16 * 8 + thread % 8) * kStride + thread / 8 % 2 * 8) * uint32_t(sizeof(T));
  }
  __device__ __forceinline__ uint32_t at(const Stage& stage, size_t offset) const {
    return base + (&stage == &shared.stages[1] ? uint32_t(sizeof(Stage)) : 0u) + uint32_t(offset);
  }
  __device__ __forceinline__ int64_t group() const { return int64_t(place.group) * p.states; }
  __device__ __forceinline__ int64_t channel() const { return int64_t(place.head) * p.head_size + place.first_row; }

  // The head of the block whose steps this warp makes, the last warp() the first; none if negative.
  __device__ __forceinline__ int step_head() const {
    const int head = kWarps - 1 - warp();
    return head < place.block_heads ? head : -1;
  }

  // 1.
  __device__ __forceinline__ void fetch(int tile, int valid) {
    Stage& stage = shared.stages[tile % 2];
    const int rows = valid - tile * kSsdTokens;
    const int64_t token = place.token(p) + tile * kSsdTokens;
    ssd_copy<kN, Traits::kThreads>(stage.B, p.B, token * p.B_stride + group(), p.B_stride, rows, p.states, thread,
                                   vectors.states);
    ssd_copy<kRows, 32>(stage.x[warp()], p.x, token * p.x_stride + channel(), p.x_stride, rows, place.rows, lane(),
                        vectors.channels);
    if (!kLocal) {
      ssd_copy<kN, Traits::kThreads>(stage.C, p.C, token * p.C_stride + group(), p.C_stride, rows, p.states, thread,
                                     vectors.states);
      if (p.z) {
        ssd_copy<kRows, 32>(stage.z[warp()], p.z, token * p.z_stride + channel(), p.z_stride, rows, place.rows, lane(),
                            vectors.channels);
      }
    }
    copy_async_commit();
  }

  // 2.
  __device__ __forceinline__ T read_dt(int tile, int valid) const {
    const int token = tile * kSsdTokens + lane();
    if (step_head() < 0 || token >= valid) return from_float<T>(0.f);
    return static_cast<const T*>(p.dt)[(place.token(p) + token) * p.dt_stride + place.block_head + step_head()];
  }

  __device__ __forceinline__ void make_steps(int tile, int valid, T dt) {
    if (step_head() < 0) return;
    Steps& steps = shared.steps[tile % 2][step_head()];
    const float delta = tile * kSsdTokens + lane() < valid ? ssd_delta<T>(p, to_float(dt), bias) : 0.f;
    const float exponent = delta * rate;
    float c = exponent < -kMostExponent ? -kMostExponent : exponent > kMostExponent ? kMostExponent : exponent;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const float before = __shfl_up_sync(0xffffffffu, c, d);
      if (lane() >= d) c += before;
    }
    const float end = __shfl_sync(0xffffffffu, c, 31);
    steps.delta[lane()] = delta, steps.exponent[lane()] = exponent, steps.c[lane()] = c;
    steps.decay[lane()] = ssd_decay(c), steps.weight[lane()] = exp2_approx(end - c) * delta;
  }

  // The pieces of S, 16 x 8, on and below the diagonal: of j = 0 and 8 for both i, of 16 and 24 for the second.
  __device__ __forceinline__ void score(const Stage& stage, const Steps* steps) const {
    for (int piece = warp(); piece < 6; piece += kWarps) {
      const int i0 = piece < 2 ? 0 : 16, j0 = (piece < 2 ? piece : piece - 2) * 8;
      const uint32_t rows = at(stage, offsetof(Stage, C)) + rows_then_columns<kStride>() + i0 * kStride * sizeof(T);
      const uint32_t columns = at(stage, offsetof(Stage, B)) + columns_of_8_rows<kStride>() + j0 * kStride * sizeof(T);
      float even[4] = {}, odd[4] = {};
#pragma unroll
      for (int k = 0; k < kN; k += 32) {
        uint32_t a[4], w[4];
        load_matrix_x4(w, columns + k * sizeof(T));
        load_matrix_x4(a, rows + k * sizeof(T));
        mma<T>(even, a, w[0], w[1]);
        load_matrix_x4(a, rows + (k + 16) * sizeof(T));
        mma<T>(odd, a, w[2], w[3]);
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) even[k] += odd[k];
      for (int head = 0; head < place.block_heads; ++head) weigh(even, steps[head], scores[head], i0 + g(), j0 + t2());
    }
  }

  // S at rows i and i + 8, columns j and j + 1, of their products.
  __device__ __forceinline__ static void weigh(const float (&products)[4], const Steps& steps, Scores& out, int i, int j) {
    const float c[2] = {steps.c[i], steps.c[i + 8]};
    const float2 before = load_pair(&steps.c[j]), delta = load_pair(&steps.delta[j]);
    float s[4];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      s[2 * k] = products[2 * k] * (exp2_approx(c[k] - before.x) * delta.x);
      s[2 * k + 1] = products[2 * k + 1] * (exp2_approx(c[k] - before.y) * delta.y);
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int row = i + 8 * k;
      store_pair(&out.s[row][j], j <= row ? to_tf32(s[2 * k]) : 0.f, j + 1 <= row ? to_tf32(s[2 * k + 1]) : 0.f);
    }
  }
};

}  // namespace seqexport
