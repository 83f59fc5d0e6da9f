// The warpgroup that feeds the others: brings tiles of x, z, B and C, and makes the steps of their tokens.
#pragma once

#include "ssd_scan_wgmma_parts.cuh"

namespace seqexport {

// Its first warp asks for copies, the others make the steps of a unit each.
template <typename Traits, bool kLocal>
struct SsdWgmmaFeed : SsdWgmmaRole<Traits> {
  using Role = SsdWgmmaRole<Traits>;
  using typename Role::Stage;
  using typename Role::Steps;
  using typename Role::T;
  using Role::kPanelBytes;
  using Role::kPanels;
  using Role::kTokens;
  using Role::kUnits;
  using Role::lane;
  using Role::p;
  using Role::shared;
  using Role::warp;
  static_assert(kUnits <= 3);
  static constexpr bool kHasStates = false;

  __device__ __forceinline__ SsdWgmmaFeed(const SsdScanParams& p_, const typename Traits::Access& access_,
                                          const SsdPlace<Traits>& place, unsigned char* bytes)
      : Role(p_, access_, place, kUnits, bytes) {}

  __device__ __forceinline__ void run() {
    if (warp() == 0) {
      copy_tiles();
    } else if (warp() <= kUnits) {
      make_all_steps(warp() - 1);
    }
    Role::end();
  }

 private:
  __device__ __forceinline__ void wait_until_empty(int i) {
    if (i >= 2) shared.empty[i % 2].wait(i / 2 - 1);
  }

  __device__ __forceinline__ void copy_tiles() {
    if (lane() > 0) return;
    const SsdPlace<Traits>& place = shared.places[0];
#pragma unroll 1
    for (int i = shared.tiles_done, token = place.t_begin; token < place.t_end; ++i, token += kTokens) {
      wait_until_empty(i);
      copy_tile(shared.stages[i % 2], shared.full[i % 2], token);
    }
  }
  __device__ __forceinline__ void copy_tile(Stage& stage, BulkBarrier& full, int token) {
    const SsdPlace<Traits>& first = shared.places[0];
    const auto& access = Role::access;
    const int of_unit = kLocal || !p.z ? 1 : 2, of_group = kLocal ? kPanels : 2 * kPanels;
    full.expect(int(kPanelBytes) * (of_unit * kUnits + of_group));
#pragma unroll
    for (int q = 0; q < kPanels; ++q) {
      bulk_load(stage.B[q], access.B, full, q * 64, first.group, token, first.b);
      if (!kLocal) bulk_load(stage.C[q], access.C, full, q * 64, first.group, token, first.b);
    }
#pragma unroll
    for (int unit = 0; unit < kUnits; ++unit) {
      const SsdPlace<Traits>& own = shared.places[unit];
      bulk_load(stage.x[unit], access.x, full, own.first_row, own.head, token, own.b);
      if (of_unit == 2) bulk_load(stage.z[unit], access.z, full, own.first_row, own.head, token, own.b);
    }
  }

  // A lane has two tokens.
  __device__ __forceinline__ void make_all_steps(int unit) {
    const SsdPlace<Traits>& place = shared.places[unit];
    const float rate = decay_rate(p.A[place.head]), bias = p.dt_bias ? p.dt_bias[place.head] : 0.f;
    T dt[2];
    read_dt(place, place.t_begin, dt);
#pragma unroll 1
    for (int i = shared.tiles_done, token = place.t_begin; token < place.t_end; ++i, token += kTokens) {
      float delta[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        delta[k] = 2 * lane() + k < Role::valid(place, token) ? ssd_delta<T>(p, to_float(dt[k]), bias) : 0.f;
      }
      read_dt(place, token + kTokens, dt);
      wait_until_empty(i);
      make_steps(shared.steps[i % 2][unit], delta, rate);
      shared.full[i % 2].arrive();
    }
  }
  __device__ __forceinline__ void read_dt(const SsdPlace<Traits>& place, int token, T (&dt)[2]) const {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const int own = token + 2 * lane() + k;
      dt[k] = from_float<T>(0.f);
      if (own < place.valid) {
        dt[k] = static_cast<const T*>(p.dt)[(int64_t(place.b) * p.length + own) * p.dt_stride + place.head];
      }
    }
  }
  __device__ __forceinline__ void make_steps(Steps& steps, const float (&delta)[2], float rate) const {
    float c[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float exponent = delta[k] * rate;
      c[k] = exponent < -kMostExponent ? -kMostExponent : exponent > kMostExponent ? kMostExponent : exponent;
    }
    c[1] += c[0];
    float before = c[1];
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const float other = __shfl_up_sync(0xffffffffu, before, d);
      if (lane() >= d) before += other;
    }
    const float end = __shfl_sync(0xffffffffu, before, 31);
    before = __shfl_up_sync(0xffffffffu, before, 1);
    if (lane() > 0) c[0] += before, c[1] += before;
    const int i = 2 * lane();
    store_pair(&steps.delta[i], delta[0], delta[1]);
    store_pair(&steps.c[i], c[0], c[1]);
    store_pair(&steps.decay[i], ssd_decay(c[0]), ssd_decay(c[1]));
    store_pair(&steps.weight[i], exp2_approx(end - c[0]) * delta[0], exp2_approx(end - c[1]) * delta[1]);
    const float last = __shfl_sync(0xffffffffu, c[1], max(lane() / 8 * 8 - 1, 0)), start = lane() < 8 ? 0.f : last;
    store_pair(&steps.within[i], exp2_approx(c[0] - start), exp2_approx(c[1] - start));
#pragma unroll
    for (int block = 1; block < 4; ++block) {
      const float to = __shfl_sync(0xffffffffu, c[1], block * 8 - 1);
      if (lane() >= block * 8) continue;
      float* before = steps.before + Traits::before_block(block);
      store_pair(&before[i], exp2_approx(to - c[0]) * delta[0], exp2_approx(to - c[1]) * delta[1]);
    }
  }
};

}  // namespace seqexport
