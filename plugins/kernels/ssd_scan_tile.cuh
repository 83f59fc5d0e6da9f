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
#include <cstddef>

#include "mma.cuh"
#include "ssd_scan_parts.cuh"

namespace seqexport {

template <typename Traits, bool kLocal>
struct SsdTile {
  using T = typename Traits::T;
  using Stage = typename Traits::Stage;
  using Steps = typename Traits::Steps;
  using Scores = typename Traits::Scores;
  static constexpr int kN = Traits::kN, kBands = Traits::kBands, kWarps = Traits::kWarps, kRows = Traits::kRows;
  static constexpr int kTiles = kN / 8, kOcts = 2 * kBands;  // of n and of rows, 8 wide
  static constexpr bool kHalf = std::is_same<T, __half>::value;
  static constexpr int kStride = kN + Traits::kPad, kRowStride = kRows + Traits::kPad;  // of B and C, of x and z
  using States = float[kBands][kTiles][4];
  using Rows = float[2][kOcts][4];  // y of 16 tokens each

  static constexpr bool kHasStates = true;

  const SsdScanParams& p;
  const SsdVectors vectors;
  typename Traits::Shared& shared;
  Scores* const scores;
  const uint32_t base;  // of shared, for ldmatrix
  int thread;
  const SsdPlace<Traits>& place;
  const float rate, bias;  // of the head whose steps this warp makes
  States h;
  float sum = 0.f;  // of the exponents of this warp's head

  __device__ __forceinline__ SsdTile(const SsdScanParams& p_, const SsdVectors& vectors_, const SsdPlace<Traits>& place_,
                                     unsigned char* bytes)
      : p(p_), vectors(vectors_), shared(*reinterpret_cast<typename Traits::Shared*>(bytes)),
        scores(reinterpret_cast<Scores*>(bytes + sizeof(typename Traits::Shared))), base(shared_address(bytes)),
        thread(threadIdx.x), place(place_), rate(decay_rate(p.A[place.block_head + max(step_head(), 0)])),
        bias(p.dt_bias ? p.dt_bias[place.block_head + max(step_head(), 0)] : 0.f) {}

  __device__ __forceinline__ int warp() const { return thread / 32; }
  __device__ __forceinline__ int lane() const { return thread % 32; }
  __device__ __forceinline__ int g() const { return thread % 32 / 4; }
  __device__ __forceinline__ int t2() const { return thread % 4 * 2; }

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
    fetch(0, valid);
    make_steps(0, valid, read_dt(0, valid));
    T dt = read_dt(1, valid);
    const int count = ceil_div(tokens, kSsdTokens);
#pragma unroll 1
    for (int i = 0; i < count; ++i) {
      // What follows from the thread's number is made again for each tile, rather than kept in registers.
      asm volatile("" : "+r"(thread));
      copy_async_wait<0>();
      __syncthreads();
      if (i + 1 < count) fetch(i + 1, valid);
      make_steps(i + 1, valid, dt);
      dt = read_dt(i + 2, valid);
      Stage& stage = shared.stages[i % 2];
      const Steps* steps = shared.steps[i % 2];
      if (kLocal) {
        update_from(stage, steps[place.head - place.block_head]);
      } else {
        score(stage, steps);
        tile(stage, steps[place.head - place.block_head], valid - i * kSsdTokens);
        write(stage, i, tokens, valid);
      }
    }
  }

 private:
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
                          (kBands == 2 ? columns_of_8_rows<kRowStride>() : columns_then_rows<kRowStride>());
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
    const uint32_t tokens = at(stage, offsetof(Stage, C)) + rows_then_columns<kStride>();
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
    const uint32_t tokens = at(stage, offsetof(Stage, B)) + rows_then_columns<kStride>();
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
    T* y = static_cast<T*>(p.y) + (place.token(p) + tile * kSsdTokens) * stride + channel();
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
