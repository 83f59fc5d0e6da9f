#include <algorithm>
#include <cmath>

#include "causal_attention.h"
#include "causal_conv1d.h"
#include "cpu_cases.h"
#include "selective_scan.h"
#include "ssd_scan.h"

using namespace seqexport::cpu;

namespace {

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

void conv_case(const Kernels& k, const Pool& pool, int dtype, int B, int L, int D, int K, bool silu, bool in_place) {
  Tensor x(dtype, size_t(B) * L * D), w(dtype, size_t(D) * K), bias(dtype, D), past(dtype, size_t(B) * D * (K - 1));
  Tensor y(dtype, x.size()), present(dtype, past.size());
  for (Tensor* t : {&x, &w, &bias, &past}) t->normal();
  const auto lens = ragged(B, L);
  Doubles truth_y(x.size()), truth_state(past.size());
  for (int b = 0; b < B; ++b) {
    for (int d = 0; d < D; ++d) {
      const auto xx = [&](int i) {
        return i < K - 1 ? past[(size_t(b) * D + d) * (K - 1) + i] : x[(size_t(b) * L + i - (K - 1)) * D + d];
      };
      for (int t = 0; t < lens[b]; ++t) {
        double sum = bias[d];
        for (int j = 0; j < K; ++j) sum += w[size_t(d) * K + j] * xx(t + j);
        truth_y[(size_t(b) * L + t) * D + d] = silu ? sum * sigmoid(sum) : sum;
      }
      for (int i = 0; i < K - 1; ++i) truth_state[(size_t(b) * D + d) * (K - 1) + i] = xx(lens[b] + i);
    }
  }
  present.copy(past);
  CausalConv1dParams p{};
  p.dtype = dtype, p.batch = B, p.length = L, p.channels = D, p.kernel_size = K;
  p.activation = silu ? SEQEXPORT_ACTIVATION_SILU : SEQEXPORT_ACTIVATION_NONE;
  p.x_stride = D, p.x = x.data(), p.weight = w.data(), p.bias = bias.data(), p.seq_lens = lens.data();
  p.past = in_place ? present.data() : past.data(), p.y = y.data(), p.present = present.data();
  k.causal_conv1d(p, pool);
  const std::string what = std::string(k.instruction_set) + " causal_conv1d dtype " + std::to_string(dtype) + " L " +
                           std::to_string(L) + " D " + std::to_string(D) + " K " + std::to_string(K);
  expect(what + " y", y, truth_y, bound_of(dtype));
  expect(what + " present", present, truth_state, 0);
}

void scan_case(const Kernels& k, const Pool& pool, int dtype, int B, int L, int D, int N, int G, double step) {
  const int F = SEQEXPORT_FLOAT32, back = G / 2;
  Tensor x(dtype, size_t(B) * L * D), dt(dtype, x.size()), z(dtype, x.size()), y(dtype, x.size());
  Tensor A(F, size_t(D) * N), skip(F, D), bias(F, D), past(F, size_t(B) * D * N), present(F, past.size());
  Tensor Bm(dtype, size_t(B) * L * G * N), C(dtype, Bm.size());
  for (Tensor* t : {&x, &z, &Bm, &C, &past, &skip, &bias}) t->normal();
  dt.normal(1, step);
  A.normal();
  for (size_t i = 0; i < A.size(); ++i) A.set(i, -8 * std::fabs(A[i]) - 0.1);
  const auto lens = ragged(B, L);
  Doubles truth_y(x.size()), h(past.size());
  for (size_t i = 0; i < h.size(); ++i) h[i] = past[i];
  for (int b = 0; b < B; ++b) {
    for (int i = 0; i < lens[b]; ++i) {
      for (int d = 0; d < D; ++d) {
        const int t = int64_t(d) * G / D >= G - back ? lens[b] - 1 - i : i;
        const size_t at = (size_t(b) * L + t) * D + d, row = ((size_t(b) * L + t) * G + size_t(d) * G / D) * N;
        const double delta = std::log1p(std::exp(dt[at] + bias[d]));
        double sum = 0;
        for (int n = 0; n < N; ++n) {
          double& state = h[(size_t(b) * D + d) * N + n];
          state = std::exp(delta * A[size_t(d) * N + n]) * state + delta * Bm[row + n] * x[at];
          sum += C[row + n] * state;
        }
        truth_y[at] = (sum + skip[d] * x[at]) * z[at] * sigmoid(z[at]);
      }
    }
  }
  present.copy(past);
  SelectiveScanParams p{};
  p.dtype = dtype, p.batch = B, p.length = L, p.channels = D, p.states = N, p.groups = G, p.dt_softplus = 1;
  p.reverse_groups = back;
  p.x_stride = p.dt_stride = p.z_stride = D, p.B_stride = p.C_stride = int64_t(G) * N;
  p.x = x.data(), p.dt = dt.data(), p.A = (float*)A.data(), p.B = Bm.data(), p.C = C.data();
  p.D = (float*)skip.data(), p.z = z.data(), p.dt_bias = (float*)bias.data(), p.seq_lens = lens.data();
  p.past = (float*)present.data(), p.y = y.data(), p.present = (float*)present.data();
  k.selective_scan(p, pool);
  const std::string what = std::string(k.instruction_set) + " selective_scan dtype " + std::to_string(dtype) + " L " +
                           std::to_string(L) + " D " + std::to_string(D) + " N " + std::to_string(N) + " G " +
                           std::to_string(G);
  expect(what + " y", y, truth_y, bound_of(dtype));
  expect(what + " present", present, h, 1e-6);
}

struct SsdSizes {
  int H, P, N, G;
};

void ssd_case(const Kernels& k, const Pool& pool, int dtype, int B, int L, SsdSizes sizes) {
  const auto [H, P, N, G] = sizes;
  const int F = SEQEXPORT_FLOAT32;
  Tensor x(dtype, size_t(B) * L * H * P), dt(dtype, size_t(B) * L * H), z(dtype, x.size()), y(dtype, x.size());
  Tensor A(F, H), skip(F, H), bias(F, H), past(F, size_t(B) * H * P * N), present(F, past.size());
  Tensor Bm(dtype, size_t(B) * L * G * N), C(dtype, Bm.size());
  for (Tensor* t : {&x, &z, &Bm, &C, &past, &skip, &bias}) t->normal();
  dt.normal(1, -2);
  A.normal();
  for (size_t i = 0; i < A.size(); ++i) A.set(i, -8 * std::fabs(A[i]) - 0.1);
  const auto lens = ragged(B, L);
  Doubles truth_y(x.size()), h(past.size());
  for (size_t i = 0; i < h.size(); ++i) h[i] = past[i];
  for (int b = 0; b < B; ++b) {
    for (int t = 0; t < lens[b]; ++t) {
      for (int c = 0; c < H * P; ++c) {
        const int head = c / P;
        const size_t token = size_t(b) * L + t, row = (token * G + size_t(head) * G / H) * N;
        const double delta = std::log1p(std::exp(dt[token * H + head] + bias[head]));
        double sum = 0;
        for (int n = 0; n < N; ++n) {
          double& state = h[(size_t(b) * H * P + c) * N + n];
          state = std::exp(delta * A[head]) * state + delta * x[token * H * P + c] * Bm[row + n];
          sum += C[row + n] * state;
        }
        const size_t at = token * H * P + c;
        truth_y[at] = (sum + skip[head] * x[at]) * z[at] * sigmoid(z[at]);
      }
    }
  }
  present.copy(past);
  SsdScanParams p{};
  p.dtype = dtype, p.batch = B, p.length = L, p.heads = H, p.head_size = P, p.states = N, p.groups = G;
  p.dt_softplus = 1, p.dt_stride = H, p.x_stride = p.z_stride = int64_t(H) * P;
  p.B_stride = p.C_stride = int64_t(G) * N;
  p.x = x.data(), p.dt = dt.data(), p.A = (float*)A.data(), p.B = Bm.data(), p.C = C.data();
  p.D = (float*)skip.data(), p.z = z.data(), p.dt_bias = (float*)bias.data(), p.seq_lens = lens.data();
  p.past = (float*)present.data(), p.y = y.data(), p.present = (float*)present.data();
  k.ssd_scan(p, pool);
  const std::string what = std::string(k.instruction_set) + " ssd_scan dtype " + std::to_string(dtype) + " L " +
                           std::to_string(L) + " H " + std::to_string(H) + " P " + std::to_string(P) + " N " +
                           std::to_string(N) + " G " + std::to_string(G);
  expect(what + " y", y, truth_y, bound_of(dtype));
  expect(what + " present", present, h, 1e-6);
}

struct Heads {
  int query, kv, key_dim, value_dim;
};

void attention_case(const Kernels& k, const Pool& pool, int dtype, int B, int L, int past, Heads heads, int window,
                    float softcap, bool in_place) {
  const auto [Hq, Hkv, Dh, Dv] = heads;
  const int S = past + L;
  Tensor q(dtype, size_t(B) * L * Hq * Dh), key(dtype, size_t(B) * L * Hkv * Dh);
  Tensor value(dtype, size_t(B) * L * Hkv * Dv);
  Tensor old_key(dtype, size_t(B) * Hkv * S * Dh), old_value(dtype, size_t(B) * Hkv * S * Dv);
  Tensor new_key(dtype, old_key.size()), new_value(dtype, old_value.size()), y(dtype, size_t(B) * L * Hq * Dv);
  for (Tensor* t : {&q, &key, &value, &old_key, &old_value}) t->normal();
  const auto lens = ragged(B, L);
  const std::vector<int32_t> past_lens(B, past);
  if (in_place) new_key.copy(old_key), new_value.copy(old_value);
  const double scale = 1 / std::sqrt(double(Dh));
  Doubles truth(y.size());
  for (int b = 0; b < B; ++b) {
    for (int t = 0; t < lens[b]; ++t) {
      for (int h = 0; h < Hq; ++h) {
        const int kv = h / (Hq / Hkv), from = window ? std::max(0, past + t - window + 1) : 0;
        Doubles weight(past + t + 1);
        double total = 0;
        for (int j = from; j <= past + t; ++j) {
          double score = 0;
          for (int d = 0; d < Dh; ++d) {
            const double at = j < past ? old_key[((size_t(b) * Hkv + kv) * S + j) * Dh + d]
                                       : key[((size_t(b) * L + j - past) * Hkv + kv) * Dh + d];
            score += q[((size_t(b) * L + t) * Hq + h) * Dh + d] * at * scale;
          }
          total += weight[j] = std::exp(softcap ? softcap * std::tanh(score / softcap) : score);
        }
        for (int d = 0; d < Dv; ++d) {
          double sum = 0;
          for (int j = from; j <= past + t; ++j) {
            sum += weight[j] * (j < past ? old_value[((size_t(b) * Hkv + kv) * S + j) * Dv + d]
                                         : value[((size_t(b) * L + j - past) * Hkv + kv) * Dv + d]);
          }
          truth[((size_t(b) * L + t) * Hq + h) * Dv + d] = sum / total;
        }
      }
    }
  }
  CausalAttentionParams p{};
  p.dtype = dtype, p.batch = B, p.length = L, p.query_heads = Hq, p.kv_heads = Hkv, p.key_dim = Dh, p.value_dim = Dv;
  p.capacity = S, p.window = window, p.scale = float(scale), p.softcap = softcap;
  p.query_stride = int64_t(Hq) * Dh, p.key_stride = int64_t(Hkv) * Dh, p.value_stride = int64_t(Hkv) * Dv;
  p.query = q.data(), p.key = key.data(), p.value = value.data();
  p.past_key = in_place ? new_key.data() : old_key.data();
  p.past_value = in_place ? new_value.data() : old_value.data();
  p.past_lens = past_lens.data(), p.seq_lens = lens.data(), p.y = y.data();
  p.present_key = new_key.data(), p.present_value = new_value.data();
  k.causal_attention(p, pool);
  const std::string what = std::string(k.instruction_set) + " causal_attention dtype " + std::to_string(dtype) + " L " +
                           std::to_string(L) + " past " + std::to_string(past) + " Dh " + std::to_string(Dh) + " Dv " +
                           std::to_string(Dv) + " window " + std::to_string(window);
  expect(what, y, truth, bound_of(dtype));
}

}  // namespace

void run_sequence_cases(const Kernels& k, const Pool& pool, int dtype) {
  for (int L : {1, 2, 63, 500}) {
    for (int D : {1, 33, 200}) conv_case(k, pool, dtype, 3, L, D, 4, L != 2, D != 33);
    for (int D : {1, 33, 80}) scan_case(k, pool, dtype, 3, L, D, 16, 1, -2);
  }
  for (int K : {1, 2, 8, 64}) conv_case(k, pool, dtype, 3, 70, 37, K, false, true);
  scan_case(k, pool, dtype, 3, 40, 30, 5, 4, -2);
  scan_case(k, pool, dtype, 2, 3, 17, 256, 17, -2);
  scan_case(k, pool, dtype, 3, 70, 40, 16, 1, 30);  // decays below the least float
  for (int L : {1, 7, 8, 63, 200}) ssd_case(k, pool, dtype, 3, L, {5, 7, 17, 2});
  for (int L : {1, 100}) ssd_case(k, pool, dtype, 2, L, {3, 64, 128, 1});
  ssd_case(k, pool, dtype, 2, 50, {1, 300, 256, 1});
  ssd_case(k, pool, dtype, 2, 100, {3, 1, 1, 3});
  for (int past : {0, 7, 150}) {
    for (int L : {1, 3, 130}) {
      attention_case(k, pool, dtype, 3, L, past, {4, 2, 64, 64}, 0, 0, true);
      attention_case(k, pool, dtype, 3, L, past, {6, 1, 5, 7}, 9, 3, false);
      attention_case(k, pool, dtype, 2, L, past, {3, 3, 80, 256}, 40, 0, L == 3);
    }
  }
}
