// SsdScan on tensor cores (sm_80 and later, fp16 and bf16), in tiles of 32 tokens (Dao & Gu 2024, section 6).
//
// A warp holds the states of 16 kBands rows p of one head, h[p,n], as accumulators; a block is kWarps such, whose heads
// share a group. With c[i] the sum of log2(e) delta A up to token i of a tile, and d = delta, per tile:
//   1. the next tile's x, z, B and C are on their way;
//   2. S[i,j] = C[i] . B[j] 2^(c[i] - c[j]) d[j] for j <= i, else 0, by the first warps, the product once for all heads;
//      d and c of the next tile, a head a warp, by the last;
//   3. y[i,p] = 2^c[i] C[i] . h[p] + S[i] . x[:,p], with the skip and the gate;
//   4. h[p,n] <- 2^c[31] h[p,n] + (x[:,p] 2^(c[31] - c) d) . B[:,n].
// Operands of 3's first product and of 4 are rounded to T; those of fp16 are brought into its range by powers of two. S
// is TF32, which holds an fp16 or bf16 x exactly. A tile whose y is not finite is scanned again token by token, so that
// no infinity reaches a token before it.
#pragma once

#include <cfloat>

#include "ssd_scan_tile_scores.cuh"

namespace seqexport {

template <typename Traits, bool kLocal>
struct SsdTile : SsdTileScores<Traits, kLocal> {
  using Base = SsdTileScores<Traits, kLocal>;
  using typename Base::Scores;
  using typename Base::Stage;
  using typename Base::Steps;
  using typename Base::T;
  using Base::at;
  using Base::g;
  using Base::kN;
  using Base::kRows;
  using Base::kStride;
  using Base::lane;
  using Base::p;
  using Base::place;
  using Base::scores;
  using Base::shared;
  using Base::t2;
  using Base::thread;
  using Base::vectors;
  using Base::warp;
  static constexpr int kBands = Traits::kBands;
  static constexpr int kTiles = kN / 8, kOcts = 2 * kBands;  // of n and of rows, 8 wide
  static constexpr bool kHalf = std::is_same<T, __half>::value;
  static constexpr int kRowStride = kRows + Traits::kPad;  // of x and z
  using States = float[kBands][kTiles][4];
  using Rows = float[2][kOcts][4];  // y of 16 tokens each

  static constexpr bool kHasStates = true;

  States h;
  float sum = 0.f;  // of the exponents of this warp's head

  __device__ __forceinline__ SsdTile(const SsdScanParams& p_, const SsdVectors& vectors_, const SsdPlace<Traits>& place_,
                                     unsigned char* bytes)
      : Base(p_, vectors_, place_, bytes) {}

  // body(a state, 0 or 1: whose of the lane's rows of its band)
  template <typename Body>
  __device__ __forceinline__ void for_all(const Body& body) {
#pragma unroll
    for (int m = 0; m < kBands; ++m) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int k = 0; k < 4; ++k) body(h[m][n][k], 2 * m + k / 2);
      }
    }
  }
  // body(two neighbouring states, their row p of the unit, the first one's n)
  template <typename Body>
  __device__ __forceinline__ void for_pairs(const Body& body) {
#pragma unroll
    for (int m = 0; m < kBands; ++m) {
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int k = 0; k < 4; k += 2) {
          body(&h[m][n][k], m * 16 + g() + k * 4, n * 8 + t2());
        }
      }
    }
  }

  __device__ __forceinline__ void run() {
    const int tokens = place.t_end - place.t_begin, valid = max(place.valid - place.t_begin, 0);
    __syncthreads();
    Base::fetch(0, valid);
    Base::make_steps(0, valid, Base::read_dt(0, valid));
    T dt = Base::read_dt(1, valid);
    const int count = ceil_div(tokens, kSsdTokens);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      // What follows from the thread's number is made again for each tile, rather than kept in registers.
      asm volatile("" : "+r"(thread));
      copy_async_wait<0>();
      __syncthreads();
      if (i + 1 < count) Base::fetch(i + 1, valid);
      Base::make_steps(i + 1, valid, dt);
      dt = Base::read_dt(i + 2, valid);
      Stage& stage = shared.stages[i % 2];
      const Steps* steps = shared.steps[i % 2];
      if (kLocal) {
        update_from(stage, steps[place.head - place.block_head]);
      } else {
        Base::score(stage, steps);
        tile(stage, steps[place.head - place.block_head], valid - i * kSsdTokens);
        write(stage, i, tokens, valid);
      }
    }
  }

 private:
  // 3 and 4. The first `valid` tokens are there.
  __device__ __forceinline__ void tile(Stage& stage, const Steps& steps, int valid) {
    Rows rows = {};
    from_states(stage, rows);
    __syncthreads();
    float2 pairs[4][kOcts];
    read_x(stage, pairs);
    from_tokens(steps, pairs, rows);
    if (__all_sync(0xffffffffu, is_finite(rows))) {
      finish(stage, rows);
      update(stage, steps, pairs);
    } else {
      token_by_token(stage, steps, valid);
    }
    __syncwarp();
  }

  __device__ __forceinline__ void update_from(const Stage& stage, const Steps& steps) {
    float2 pairs[4][kOcts];
    read_x(stage, pairs);
    update(stage, steps, pairs);
    sum += steps.c[kSsdTokens - 1];
  }

  // x of tokens 8 j + t2() and the next, row 8 r + g().
  __device__ __forceinline__ void read_x(const Stage& stage, float2 (&pairs)[4][kOcts]) const {
    const uint32_t rows = at(stage, offsetof(Stage, x)) + warp() * kSsdTokens * kRowStride * uint32_t(sizeof(T)) +
                          (kBands == 2 ? this->template columns_of_8_rows<kRowStride>()
                                       : this->template columns_then_rows<kRowStride>());
#pragma unroll
    for (int j = 0; j < 4; j += kBands == 2 ? 1 : 2) {
      uint32_t words[4];
      load_matrix_x4_transposed(words, rows + j * 8 * kRowStride * sizeof(T));
#pragma unroll
      for (int k = 0; k < 4; ++k) pairs[j + k / kOcts][k % kOcts] = unpack_pair<T>(words[k]);
    }
  }

  // y <- C . h
  __device__ __forceinline__ void from_states(const Stage& stage, Rows& rows) const {
    HalfScale scales[kOcts];
    if constexpr (kHalf) scale_states(scales);
    const uint32_t tokens = at(stage, offsetof(Stage, C)) + this->template rows_then_columns<kStride>();
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) load_matrix_x4(a[m], tokens + (m * 16 * kStride + k * 16) * sizeof(T));
#pragma unroll
      for (int r = 0; r < kOcts; ++r) {
        const float *low = &h[r / 2][2 * k][r % 2 * 2], *high = &h[r / 2][2 * k + 1][r % 2 * 2];
        const float up = kHalf ? scales[r].up : 1.f;
        const uint32_t w0 = pack_pair<T>(low[0] * up, low[1] * up), w1 = pack_pair<T>(high[0] * up, high[1] * up);
#pragma unroll
        for (int m = 0; m < 2; ++m) mma<T>(rows[m][r], a[m], w0, w1);
      }
    }
    if constexpr (kHalf) {
#pragma unroll
      for (int r = 0; r < kOcts; ++r) {
        // The rows of the state that are this lane's columns of y have their scales in other lanes.
        const float first = __shfl_sync(0xffffffffu, scales[r].down, t2() * 4);
        const float second = __shfl_sync(0xffffffffu, scales[r].down, t2() * 4 + 4);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          rows[m][r][0] *= first, rows[m][r][1] *= second, rows[m][r][2] *= first, rows[m][r][3] *= second;
        }
      }
    }
  }

  __device__ __forceinline__ void scale_states(HalfScale (&scales)[kOcts]) const {
#pragma unroll
    for (int r = 0; r < kOcts; ++r) {
      uint32_t most = 0;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        most = larger_finite(larger_finite(most, h[r / 2][n][r % 2 * 2]), h[r / 2][n][r % 2 * 2 + 1]);
      }
      scales[r] = HalfScale::of(most);
    }
  }

  // y <- 2^c y + S . x
  __device__ __forceinline__ void from_tokens(const Steps& steps, const float2 (&pairs)[4][kOcts], Rows& rows) const {
    const Scores& own = scores[place.head - place.block_head];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const float first = steps.decay[m * 16 + g()], second = steps.decay[m * 16 + g() + 8];
#pragma unroll
      for (int r = 0; r < kOcts; ++r) {
        rows[m][r][0] *= first, rows[m][r][1] *= first, rows[m][r][2] *= second, rows[m][r][3] *= second;
      }
#pragma unroll
      for (int j = 0; j < 2 * (m + 1); ++j) {
        const float2 upper = load_pair(&own.s[m * 16 + g()][j * 8 + t2()]);
        const float2 lower = load_pair(&own.s[m * 16 + g() + 8][j * 8 + t2()]);
        const float a[4] = {upper.x, lower.x, upper.y, lower.y};
#pragma unroll
        for (int r = 0; r < kOcts; ++r) mma_tf32(rows[m][r], a, pairs[j][r].x, pairs[j][r].y);
      }
    }
  }

  __device__ __forceinline__ static bool is_finite(const Rows& rows) {
    float most[4] = {};
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int r = 0; r < kOcts; ++r) {
#pragma unroll
        for (int k = 0; k < 4; ++k) most[k] = fmaf(fabsf(rows[m][r][k]), 0x1p-10f, most[k]);
      }
    }
    return (most[0] + most[1]) + (most[2] + most[3]) <= FLT_MAX;
  }

  // The skip and the gate; y goes where z was, pair by pair.
  __device__ __forceinline__ void finish(Stage& stage, Rows& rows) const {
    const float skip = p.D ? p.D[place.head] : 0.f;
#pragma unroll
    for (int half = 0; half < 4; ++half) {
      const int token = half * 8 + g();
      float(&y)[kOcts][4] = rows[half / 2];
      const int k = half % 2 * 2;
      uint32_t x[kOcts], z[kOcts];
      T* out = &stage.z[warp()][token][t2()];
#pragma unroll
      for (int r = 0; r < kOcts; ++r) {
        x[r] = *reinterpret_cast<const uint32_t*>(&stage.x[warp()][token][r * 8 + t2()]);
        z[r] = *reinterpret_cast<const uint32_t*>(out + r * 8);
      }
#pragma unroll
      for (int r = 0; r < kOcts; ++r) {
        const float2 of_x = unpack_pair<T>(x[r]), of_z = unpack_pair<T>(z[r]);
        if (p.D) y[r][k] = fmaf(skip, of_x.x, y[r][k]), y[r][k + 1] = fmaf(skip, of_x.y, y[r][k + 1]);
        if (p.z) y[r][k] *= silu<T>(of_z.x), y[r][k + 1] *= silu<T>(of_z.y);
      }
#pragma unroll
      for (int r = 0; r < kOcts; ++r) store_pair(out + r * 8, y[r][k], y[r][k + 1]);
    }
  }

  // 4.
  __device__ __forceinline__ void update(const Stage& stage, const Steps& steps, float2 (&pairs)[4][kOcts]) {
    uint32_t a[2][kBands][4];
    HalfScale scales[kOcts];
    weigh_x(steps, pairs, a, scales);
    const float decay = steps.decay[kSsdTokens - 1];
    for_all([&](float& v, int r) { v *= kHalf ? decay * scales[r].up : decay; });
    const uint32_t tokens = at(stage, offsetof(Stage, B)) + this->template rows_then_columns<kStride>();
#pragma unroll
    for (int k = 0; k < 2; ++k) {
#pragma unroll
      for (int n = 0; n < kTiles; n += 2) {
        uint32_t w[4];
        load_matrix_x4_transposed(w, tokens + (k * 16 * kStride + n * 8) * sizeof(T));
#pragma unroll
        for (int m = 0; m < kBands; ++m) {
          mma<T>(h[m][n], a[k][m], w[0], w[1]);
          mma<T>(h[m][n + 1], a[k][m], w[2], w[3]);
        }
      }
    }
    if constexpr (kHalf) {
      for_all([&](float& v, int r) { v *= scales[r].down; });
    }
  }

  // x^T times its weights, as the operand of 4.
  __device__ __forceinline__ void weigh_x(const Steps& steps, float2 (&pairs)[4][kOcts], uint32_t (&a)[2][kBands][4],
                                          HalfScale (&scales)[kOcts]) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float2 weight = load_pair(&steps.weight[j * 8 + t2()]);
#pragma unroll
      for (int r = 0; r < kOcts; ++r) pairs[j][r].x *= weight.x, pairs[j][r].y *= weight.y;
    }
#pragma unroll
    for (int r = 0; r < kOcts; ++r) {
      if constexpr (kHalf) {
        uint32_t most = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) most = larger_finite(larger_finite(most, pairs[j][r].x), pairs[j][r].y);
        scales[r] = HalfScale::of(most, kLeastWeighed);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float up = kHalf ? scales[r].up : 1.f;
        a[j / 2][r / 2][j % 2 * 2 + r % 2] = pack_pair<T>(pairs[j][r].x * up, pairs[j][r].y * up);
      }
    }
  }

  // The recurrence itself, on what is in shared memory.
  __device__ __forceinline__ void token_by_token(Stage& stage, const Steps& steps, int valid) {
#pragma unroll 1
    for (int i = 0; i < min(valid, kSsdTokens); ++i) {
      const float decay = ssd_decay(steps.exponent[i]), delta = steps.delta[i];
#pragma unroll
      for (int r = 0; r < kOcts; ++r) {
        const float u = delta * to_float(stage.x[warp()][i][r * 8 + g()]);
        float sum = 0.f;
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
          asm volatile("" ::: "memory");  // one load at a time: this path is to take no registers from the other
          const float2 in = load_pair(&stage.B[i][n * 8 + t2()]), out = load_pair(&stage.C[i][n * 8 + t2()]);
          float *first = &h[r / 2][n][r % 2 * 2], *second = first + 1;
          if (n * 8 + t2() < p.states) *first = fmaf(decay, *first, u * in.x), sum = fmaf(out.x, *first, sum);
          if (n * 8 + t2() + 1 < p.states) *second = fmaf(decay, *second, u * in.y), sum = fmaf(out.y, *second, sum);
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane() % 4 == 0) put_one(stage, i, r * 8 + g(), sum);
      }
    }
  }

  __device__ __forceinline__ void put_one(Stage& stage, int token, int row, float y) const {
    T* out = &stage.z[warp()][token][row];
    if (p.D) y = fmaf(p.D[place.head], to_float(stage.x[warp()][token][row]), y);
    if (p.z) y *= silu<T>(to_float(*out));
    *out = from_float<T>(y);
  }

  // y of a tile; `tokens` of the segment exist, and those from `valid` on are 0.
  __device__ __forceinline__ void write(const Stage& stage, int tile, int tokens, int valid) const {
    const int64_t stride = int64_t(p.heads) * p.head_size;
    T* y = static_cast<T*>(p.y) + (place.token(p) + tile * kSsdTokens) * stride + Base::channel();
    tokens -= tile * kSsdTokens, valid -= tile * kSsdTokens;
    if (vectors.outputs) {
      constexpr int kVectors = kRows / 8, kStep = 32 / kVectors;
      const int row = lane() / kVectors, column = lane() % kVectors * 8;
      if (column >= place.rows) return;
      y += row * stride + column;
#pragma unroll
      for (int i = 0; i < kSsdTokens; i += kStep) {
        if (row + i >= tokens) continue;
        const uint4 values = *reinterpret_cast<const uint4*>(&stage.z[warp()][row + i][column]);
        *reinterpret_cast<uint4*>(y + i * stride) = row + i < valid ? values : make_uint4(0, 0, 0, 0);
      }
    } else {
#pragma unroll 1
      for (int i = lane(); i < min(tokens, kSsdTokens) * kRows; i += 32) {
        const int token = i / kRows, column = i % kRows;
        if (column >= place.rows) continue;
        y[token * stride + column] = token < valid ? stage.z[warp()][token][column] : from_float<T>(0.f);
      }
    }
  }
};

}  // namespace seqexport
