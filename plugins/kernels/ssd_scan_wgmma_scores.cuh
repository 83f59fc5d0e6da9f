// A unit, a warpgroup of states, and S of its head: see ssd_scan_wgmma.cuh.
#pragma once

#include "ssd_scan_wgmma_parts.cuh"

namespace seqexport {

template <typename Traits>
struct SsdWgmmaScores : SsdWgmmaRole<Traits> {
  using Role = SsdWgmmaRole<Traits>;
  using typename Role::Stage;
  using typename Role::Steps;
  using typename Role::T;
  using Role::kHalf;
  using Role::kPanelBytes;
  using Role::kPanels;
  using Role::lane;
  using Role::shared;
  using Role::thread;
  using Role::warp;
  using Rows = float[32];     // of a product
  using Diagonal = float[8];  // 16 columns of it

  const int unit;
  const uint32_t base;  // of shared
  const SsdPlace<Traits>& place;

  __device__ __forceinline__ SsdWgmmaScores(const SsdScanParams& p_, const typename Traits::Access& access_,
                                            const SsdPlace<Traits>& place_, unsigned char* bytes)
      : Role(p_, access_, place_, unit_of_warpgroup(), bytes), unit(unit_of_warpgroup()), base(shared_address(bytes)),
        place(shared.places[unit]) {}

  __device__ __forceinline__ static int unit_of_warpgroup() { return __shfl_sync(0xffffffffu, threadIdx.x / 128, 0); }
  __device__ __forceinline__ int g() const { return int(thread % 32 / 4); }
  __device__ __forceinline__ int t2() const { return int(thread % 4 * 2); }
  // Of the tokens of the tile that begins at `token`, those from the first on that are there.
  __device__ __forceinline__ int valid(int token) const { return Role::valid(place, token); }
  __device__ __forceinline__ uint32_t at(const void* in_shared) const {
    return base + uint32_t(static_cast<const char*>(in_shared) - reinterpret_cast<const char*>(&shared));
  }
  __device__ __forceinline__ void meet_unit() const { asm volatile("bar.sync %0, 128;" ::"r"(unit + 1) : "memory"); }

  // The larger magnitude. One that is infinite makes a y that is not finite, and no scale matters.
  __device__ __forceinline__ static float larger(float most, float v) { return fmaxf(most, fabsf(v)); }

  // S above the diagonal, which stays 0.
  __device__ __forceinline__ void clear_scores() const {
    uint4* scores = reinterpret_cast<uint4*>(shared.scores[unit]);
#pragma unroll
    for (int i = 0; i < int(kPanelBytes / 16); i += 128) scores[i + int(thread)] = make_uint4(0, 0, 0, 0);
    meet_unit();
  }

  __device__ __forceinline__ void score(const Stage& stage, const Steps& steps) const {
    Rows s;
    const uint32_t rows = panel_descriptor(at(stage.C)), columns = panel_descriptor(at(stage.B));
    wgmma_begin();
#pragma unroll
    for (int k = 0; k < 4 * kPanels; ++k) {
      const uint32_t step = (k / 4 * kPanelBytes + k % 4 * 32) >> 4;
      wgmma<T>(s, rows + step, columns + step, k > 0);
    }
    wgmma_commit();
    wgmma_wait<0>();
    pin(s);
    Diagonal diagonal;
#pragma unroll
    for (int m = 0; m < 8; ++m) {
      diagonal[m] = warp() == 0 ? s[m] : warp() == 1 ? s[8 + m] : warp() == 2 ? s[16 + m] : s[24 + m];
    }
    weigh(steps, diagonal);  // first: otherwise ptxas makes all products wait for one another (C7511)
    weigh(steps, s);
    float up[2] = {1.f, 1.f};
    if constexpr (kHalf) scale_scores(s, diagonal, up);
    const uint32_t to = at(shared.scores[unit]) + (thread / 32 * 16 + thread / 8 % 2 * 8 + thread % 8) * 128;
    const auto put = [&](int block, const float* of_block) {
      uint32_t words[4];
#pragma unroll
      for (int m = 0; m < 4; ++m) words[m] = pack_pair<T>(of_block[2 * m] * up[m % 2], of_block[2 * m + 1] * up[m % 2]);
      store_matrix_x4(to + (((2 * block + thread % 32 / 16) ^ (thread % 8)) << 4), words);
    };
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      if (k < warp()) put(k, &s[8 * k]);
    }
    put(warp(), diagonal);
    show_to_async();
  }

  // The warp's rows of S from their products, before the block on the diagonal.
  __device__ __forceinline__ void weigh(const Steps& steps, Rows& s) const {
    const int i = warp() * 16 + g();
    const float within[2] = {steps.within[i], steps.within[i + 8]};
    const float* before = steps.before + Traits::before_block(warp());
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      if (k >= warp()) continue;
#pragma unroll
      for (int n = 2 * k; n < 2 * k + 2; ++n) {
        const float2 from = load_pair(&before[n * 8 + t2()]);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          s[4 * n + 2 * r] *= within[r] * from.x, s[4 * n + 2 * r + 1] *= within[r] * from.y;
        }
      }
    }
  }
  // And that block.
  __device__ __forceinline__ void weigh(const Steps& steps, Diagonal& s) const {
    const int i = warp() * 16 + g(), j = warp() * 16 + t2();
    const float c[2] = {steps.c[i], steps.c[i + 8]};
    const bool first = t2() <= g(), second = t2() < g();
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const float2 before = load_pair(&steps.c[j + 8 * n]), delta = load_pair(&steps.delta[j + 8 * n]);
#pragma unroll
      for (int r = n; r < 2; ++r) {
        const float x = s[4 * n + 2 * r] * (exp2_approx(c[r] - before.x) * delta.x);
        const float y = s[4 * n + 2 * r + 1] * (exp2_approx(c[r] - before.y) * delta.y);
        s[4 * n + 2 * r] = r > n || first ? x : 0.f, s[4 * n + 2 * r + 1] = r > n || second ? y : 0.f;
      }
    }
    s[4] = s[5] = 0.f;
  }

  __device__ __forceinline__ void scale_scores(const Rows& s, const Diagonal& diagonal, float (&up)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = 0.f;
#pragma unroll
      for (int n = 0; n < 2; ++n) most = larger(larger(most, diagonal[4 * n + 2 * r]), diagonal[4 * n + 2 * r + 1]);
#pragma unroll
      for (int n = 0; n < 6; ++n) {
        if (n / 2 < warp()) most = larger(larger(most, s[4 * n + 2 * r]), s[4 * n + 2 * r + 1]);
      }
      const HalfScale scale = HalfScale::of(__float_as_uint(most), kLeastScore);
      up[r] = scale.up;
      if (lane() % 4 == 0) {
        const int i = warp() * 16 + g() + 8 * r;
        shared.up[unit][i] = scale.up, shared.down[unit][i] = scale.down;
      }
    }
  }
};

}  // namespace seqexport
