// SsdScan by products of warpgroups (sm_90a, fp16 and bf16), in tiles of 64 tokens; what ssd_scan_tile.cuh does by those
// of warps.
//
// A warpgroup is a unit: it holds the states of 64 rows p of one head, h[p,n], as accumulators. A block is kUnits such,
// whose heads share a group. With c and d as in ssd_scan_tile.cuh, per tile:
//   1. the tile's x, z, B and C, and d and c, come from one more warpgroup (ssd_scan_wgmma_feed.cuh), a tile ahead;
//   2. S[i,j] = C[i] . B[j] 2^(c[i] - c[j]) d[j] for j <= i, else 0, by every unit for itself, rounded to T;
//   3. y[p,i] = 2^c[i] h[p] . C[i] + x[:,p] . S[i], and the skip;
//   4. h[p,n] <- 2^c[63] h[p,n] + (x[:,p] 2^(c[63] - c) d) . B[:,n], and meanwhile the gate of y.
// S and the operands from h and x are rounded to T; those of fp16 are brought into its range by powers of two. A tile
// whose y is not finite is scanned again token by token, so that no infinity reaches a token before it.
#pragma once

#include <cfloat>

#include "ssd_scan_wgmma_feed.cuh"
#include "ssd_scan_wgmma_scores.cuh"

namespace seqexport {

template <typename Traits, bool kLocal>
struct SsdWgmmaTile : SsdWgmmaScores<Traits> {
  using Scores = SsdWgmmaScores<Traits>;
  using typename Scores::Rows;
  using typename Scores::Stage;
  using typename Scores::Steps;
  using typename Scores::T;
  using Scores::at;
  using Scores::g;
  using Scores::kHalf;
  using Scores::kPanelBytes;
  using Scores::kPanels;
  using Scores::kTokens;
  using Scores::kUnits;
  using Scores::lane;
  using Scores::larger;
  using Scores::meet_unit;
  using Scores::p;
  using Scores::place;
  using Scores::shared;
  using Scores::t2;
  using Scores::thread;
  using Scores::unit;
  using Scores::valid;
  using Scores::warp;
  using Operand = uint32_t[4][4];  // 64 columns of A
  static constexpr bool kHasStates = true;

  float h[kPanels][32];
  float sum = 0.f;  // of the exponents

  __device__ __forceinline__ SsdWgmmaTile(const SsdScanParams& p_, const typename Traits::Access& access_,
                                          const SsdPlace<Traits>& place_, unsigned char* bytes)
      : Scores(p_, access_, place_, bytes) {}

  // body(a state, 0 or 1: whose of the lane's two rows)
  template <typename Body>
  __device__ __forceinline__ void for_all(const Body& body) {
#pragma unroll
    for (int q = 0; q < kPanels; ++q) {
#pragma unroll
      for (int k = 0; k < 32; ++k) body(h[q][k], k / 2 % 2);
    }
  }
  // body(two neighbouring states, their row p of the unit, the first one's n)
  template <typename Body>
  __device__ __forceinline__ void for_pairs(const Body& body) {
#pragma unroll
    for (int q = 0; q < kPanels; ++q) {
#pragma unroll
      for (int k = 0; k < 32; k += 2) {
        body(&h[q][k], warp() * 16 + k / 2 % 2 * 8 + g(), q * 64 + k / 4 * 8 + t2());
      }
    }
  }

  __device__ __forceinline__ void run() {
    if (!kLocal) Scores::clear_scores();
    int token = place.t_begin;
#pragma unroll 1
    for (int i = shared.tiles_done; token < place.t_end; ++i, token += kTokens) {
      // What follows from the thread's number is made again for each tile, rather than kept in registers.
      asm volatile("" : "+r"(thread));
      Stage& stage = shared.stages[i % 2];
      const Steps& steps = shared.steps[i % 2][unit];
      shared.full[i % 2].wait(i / 2);
      if (p.seq_lens && valid(token) < kTokens) clear_padding(stage, max(valid(token), 0));
      if (kLocal) {
        update_alone(stage, steps);
      } else {
        tile(stage, steps, token);
      }
      shared.empty[i % 2].arrive();
    }
    if (!kLocal && token > place.t_begin) {
      show_to_async();
      meet_unit();
      store(token - kTokens);
      if (stores()) bulk_stores_read();
    }
    Scores::end();
  }

 private:
  // Where this lane's row of four 8 x 8 matrices begins: two parts of 8 rows p of the warp, by 16 tokens.
  __device__ __forceinline__ uint32_t channels_of_16_tokens() const {
    return panel_offset(int(thread % 32 / 16 * 8 + thread % 8), int(thread / 32 * 2 + thread / 8 % 2));
  }
  __device__ __forceinline__ bool any_of_unit(bool mine) const {
    int any;
    asm volatile(
        "{ .reg .pred p, q; setp.ne.s32 p, %1, 0; bar.red.or.pred q, %2, 128, p; selp.s32 %0, 1, 0, q; }"
        : "=r"(any)
        : "r"(int(mine)), "r"(unit + 1)
        : "memory");
    return any;
  }

  // The thread of a unit that asks for its stores.
  __device__ __forceinline__ bool stores() const { return thread == 0; }
  __device__ __forceinline__ void store(int token) const {
    if (!stores() || place.rows == 0) return;
    bulk_store(Scores::access.y, shared.y[unit], place.first_row, place.head, token, place.b);
  }

  // Padded tokens, from the first on, are 0.
  __device__ __forceinline__ void clear_padding(Stage& stage, int first) const {
    clear_rows(stage.x[unit], first);
#pragma unroll
    for (int q = 0; q < kPanels; ++q) {
      if (unit == 0) clear_rows(stage.B[q], first);
      if (!kLocal && unit == kUnits - 1) clear_rows(stage.C[q], first);
    }
    show_to_async();
    asm volatile("bar.sync %0, %1;" ::"n"(kUnits + 1), "n"(128 * kUnits) : "memory");
  }
  __device__ __forceinline__ void clear_rows(typename Traits::Panel& panel, int first) const {
    for (int i = first * 8 + int(thread); i < kTokens * 8; i += 128) {
      reinterpret_cast<uint4*>(panel)[i] = make_uint4(0, 0, 0, 0);
    }
  }

  // 3 and 4.
  __device__ __forceinline__ void tile(const Stage& stage, const Steps& steps, int token) {
    Scores::score(stage, steps);
    Rows y;
    Operand x, weighed;
    from_states(stage, steps, token, y, x);
    HalfScale scales[2];
    from_tokens(steps, y, x, weighed, scales);
    if (stores()) bulk_stores_read();
    if (!any_of_unit(!is_finite(y))) {
      begin_update(stage, steps, weighed, scales);
      p.z ? finish<true>(stage, y) : finish<false>(stage, y);
      end_update(scales);
    } else {
      token_by_token(stage, steps, valid(token));
    }
    if (p.seq_lens && valid(token) < kTokens) {
      meet_unit();
      clear_rows(shared.y[unit], max(valid(token), 0));
    }
    show_to_async();
  }

  __device__ __forceinline__ void update_alone(const Stage& stage, const Steps& steps) {
    Operand x, weighed;
    HalfScale scales[2];
    read_x(stage, x);
    weigh_x(steps, x, weighed, scales);
    begin_update(stage, steps, weighed, scales);
    sum += steps.c[kTokens - 1];
    end_update(scales);
  }

  __device__ __forceinline__ void read_x(const Stage& stage, Operand& x) const {
    const uint32_t rows = at(stage.x[unit]) + channels_of_16_tokens();
#pragma unroll
    for (int k = 0; k < 4; ++k) load_matrix_x4_transposed(x[k], rows + k * 16 * 128);
  }

  // y <- 2^c h . C; reads x meanwhile.
  __device__ __forceinline__ void from_states(const Stage& stage, const Steps& steps, int token, Rows& y,
                                              Operand& x) const {
    HalfScale scales[2];
    if constexpr (kHalf) scale_states(scales);
    const uint32_t tokens = panel_descriptor(at(stage.C));
#pragma unroll
    for (int q = 0; q < kPanels; ++q) {
      Operand a;
#pragma unroll
      for (int k = 0; k < 16; ++k) {
        const float up = kHalf ? scales[k % 2].up : 1.f;
        a[k / 4][k % 4] = pack_pair<T>(h[q][2 * k] * up, h[q][2 * k + 1] * up);
      }
      if (q > 0) wgmma_wait<0>();
      pin(y);
      wgmma_begin();
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        wgmma<T, false>(y, a[k], tokens + ((q * kPanelBytes + k * 32) >> 4), q + k > 0);
      }
      wgmma_commit();
    }
    read_x(stage, x);
    wgmma_wait<0>();
    pin(y);
    meet_unit();
    if (token > place.t_begin) store(token - kTokens);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      float2 decay = load_pair(&steps.decay[8 * n + t2()]);
      if constexpr (kHalf) {
        const float2 up = load_pair(&shared.up[unit][8 * n + t2()]);
        decay.x *= up.x, decay.y *= up.y;
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float down = kHalf ? scales[r].down : 1.f;
        y[4 * n + 2 * r] *= decay.x * down, y[4 * n + 2 * r + 1] *= decay.y * down;
      }
    }
  }

  __device__ __forceinline__ void scale_states(HalfScale (&scales)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = 0.f;
#pragma unroll
      for (int q = 0; q < kPanels; ++q) {
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          most = larger(larger(most, h[q][4 * n + 2 * r]), h[q][4 * n + 2 * r + 1]);
        }
      }
      scales[r] = HalfScale::of(__float_as_uint(most));
    }
  }

  // y <- y + x . S, and the skip; weighs x meanwhile.
  __device__ __forceinline__ void from_tokens(const Steps& steps, Rows& y, const Operand& x, Operand& weighed,
                                              HalfScale (&scales)[2]) const {
    const uint32_t scores = panel_descriptor(at(shared.scores[unit]));
    pin(y);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma<T, false>(y, x[k], scores + (k * 32 >> 4), true);
    wgmma_commit();
    weigh_x(steps, x, weighed, scales);
    wgmma_wait<0>();
    pin(y);
    if constexpr (kHalf) {
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float2 down = load_pair(&shared.down[unit][8 * n + t2()]);
#pragma unroll
        for (int r = 0; r < 2; ++r) y[4 * n + 2 * r] *= down.x, y[4 * n + 2 * r + 1] *= down.y;
      }
    }
    if (p.D) {
      const float skip = shared.skips[unit];
#pragma unroll
      for (int k = 0; k < 16; ++k) {
        const float2 of_x = unpack_pair<T>(x[k / 4][k % 4]);
        y[2 * k] = fmaf(skip, of_x.x, y[2 * k]), y[2 * k + 1] = fmaf(skip, of_x.y, y[2 * k + 1]);
      }
    }
  }

  // x^T times its weights, as the operand of 4.
  __device__ __forceinline__ void weigh_x(const Steps& steps, const Operand& x, Operand& weighed,
                                          HalfScale (&scales)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (kHalf) {
        float most = 0.f;
#pragma unroll
        for (int k = r; k < 16; k += 2) {
          const float2 pair = weighed_pair(steps, x, k);
          most = larger(larger(most, pair.x), pair.y);
        }
        scales[r] = HalfScale::of(__float_as_uint(most), kLeastWeighed);
      }
      const float up = kHalf ? scales[r].up : 1.f;
#pragma unroll
      for (int k = r; k < 16; k += 2) {
        const float2 pair = weighed_pair(steps, x, k);
        weighed[k / 4][k % 4] = pack_pair<T>(pair.x * up, pair.y * up);
      }
    }
  }
  __device__ __forceinline__ float2 weighed_pair(const Steps& steps, const Operand& x, int k) const {
    const float2 weight = load_pair(&steps.weight[k / 2 * 8 + t2()]), pair = unpack_pair<T>(x[k / 4][k % 4]);
    return make_float2(pair.x * weight.x, pair.y * weight.y);
  }

  __device__ __forceinline__ static bool is_finite(const Rows& y) {
    float most[4] = {};
#pragma unroll
    for (int k = 0; k < 32; ++k) most[k % 4] = fmaf(fabsf(y[k]), 0x1p-10f, most[k % 4]);
    return (most[0] + most[1]) + (most[2] + most[3]) <= FLT_MAX;
  }

  // 4.
  __device__ __forceinline__ void begin_update(const Stage& stage, const Steps& steps, const Operand& weighed,
                                               const HalfScale (&scales)[2]) {
    const float decay = steps.decay[kTokens - 1];
    for_all([&](float& v, int r) { v *= kHalf ? decay * scales[r].up : decay; });
    const uint32_t tokens = panel_descriptor(at(stage.B));
#pragma unroll
    for (int q = 0; q < kPanels; ++q) pin(h[q]);
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int q = 0; q < kPanels; ++q) {
        wgmma<T, true>(h[q], weighed[k], tokens + ((q * kPanelBytes + k * 16 * 128) >> 4), true);
      }
    }
    wgmma_commit();
  }
  __device__ __forceinline__ void end_update(const HalfScale (&scales)[2]) {
    wgmma_wait<0>();
#pragma unroll
    for (int q = 0; q < kPanels; ++q) pin(h[q]);
    if constexpr (kHalf) {
      for_all([&](float& v, int r) { v *= scales[r].down; });
    }
  }

  // The gate.
  template <bool kGated>
  __device__ __forceinline__ void finish(const Stage& stage, const Rows& y) const {
    const uint32_t lane_row = channels_of_16_tokens(), gates = at(stage.z[unit]) + lane_row;
    const uint32_t out = at(shared.y[unit]) + lane_row;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      uint32_t words[4];
      if (kGated) load_matrix_x4_transposed(words, gates + k * 16 * 128);
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        float first = y[8 * k + 2 * m], second = y[8 * k + 2 * m + 1];
        if (kGated) {
          const float2 of_z = unpack_pair<T>(words[m]);
          first *= silu<T>(of_z.x), second *= silu<T>(of_z.y);
        }
        words[m] = pack_pair<T>(first, second);
      }
      store_matrix_x4_transposed(out + k * 16 * 128, words);
    }
  }

  // The recurrence itself, on what is in shared memory.
  __device__ __forceinline__ void token_by_token(const Stage& stage, const Steps& steps, int valid) {
#pragma unroll 1
    for (int i = 0; i < min(valid, kTokens); ++i) {
      const float delta = steps.delta[i], decay = ssd_decay(delta * decay_rate(p.A[place.head]));
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = warp() * 16 + 8 * r + g();
        const float u = delta * to_float(*ssd_element(&stage.x[unit], i, row));
        float sum = 0.f;
#pragma unroll
        for (int n = 0; n < 8 * kPanels; ++n) {
          asm volatile("" ::: "memory");  // one load at a time: this path is to take no registers from the other
          const int column = n * 8 + t2();
          const float2 in = load_pair(ssd_element(stage.B, i, column)), out = load_pair(ssd_element(stage.C, i, column));
          float *first = &h[n / 8][n % 8 * 4 + 2 * r], *second = first + 1;
          if (column < p.states) *first = fmaf(decay, *first, u * in.x), sum = fmaf(out.x, *first, sum);
          if (column + 1 < p.states) *second = fmaf(decay, *second, u * in.y), sum = fmaf(out.y, *second, sum);
        }
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        if (lane() % 4 == 0) put_one(stage, i, row, sum);
      }
    }
  }

  __device__ __forceinline__ void put_one(const Stage& stage, int token, int row, float y) const {
    if (p.D) y = fmaf(shared.skips[unit], to_float(*ssd_element(&stage.x[unit], token, row)), y);
    if (p.z) y *= silu<T>(to_float(*ssd_element(&stage.z[unit], token, row)));
    *ssd_element(&shared.y[unit], token, row) = from_float<T>(y);
  }
};

}  // namespace seqexport
