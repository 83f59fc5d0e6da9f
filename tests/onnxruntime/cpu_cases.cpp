// Runs every CPU kernel of every instruction set that the processor has over hard shapes, against the same recurrences
// in double, on several threads. The tensors lie in blocks of exactly their size, so that AddressSanitizer sees any
// read or write outside of them. Prints one line for each instruction set; exits 1 where an error is too large.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"

using namespace seqexport::cpu;

namespace {

std::mt19937 generator(0);
int failures = 0;

// Elements of type `dtype` in a block of exactly their size; NaN until they are filled.
class Tensor {
 public:
  Tensor(int dtype, size_t count) : dtype_(dtype), count_(count) {
    data_.reset(new char[std::max<size_t>(1, count * bytes())]);
    for (size_t i = 0; i < count; ++i) set(i, NAN);
  }
  void normal(double scale = 1, double shift = 0) {
    std::normal_distribution<double> draw;
    for (size_t i = 0; i < count_; ++i) set(i, draw(generator) * scale + shift);
  }
  void copy(const Tensor& other) { std::memcpy(data_.get(), other.data_.get(), count_ * bytes()); }
  double operator[](size_t i) const {
    uint32_t wide;
    uint16_t half;
    if (dtype_ == SEQEXPORT_FLOAT32) {
      std::memcpy(&wide, &data_[i * 4], 4);
    } else {
      std::memcpy(&half, &data_[i * 2], 2);
      if (dtype_ == SEQEXPORT_FLOAT16) return half_value(half);
      wide = uint32_t(half) << 16;
    }
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }
  void set(size_t i, double value) {
    const float narrow = float(value);
    uint32_t wide;
    std::memcpy(&wide, &narrow, 4);
    if (dtype_ == SEQEXPORT_FLOAT32) {
      std::memcpy(&data_[i * 4], &wide, 4);
      return;
    }
    const uint16_t half = dtype_ == SEQEXPORT_FLOAT16 ? half_bits(value) : uint16_t(wide >> 16);
    std::memcpy(&data_[i * 2], &half, 2);
  }
  size_t size() const { return count_; }
  void* data() const { return data_.get(); }

 private:
  size_t bytes() const { return dtype_ == SEQEXPORT_FLOAT32 ? 4 : 2; }
  static double half_value(uint16_t h) {
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double magnitude = exponent == 31  ? (fraction ? NAN : INFINITY)
                             : exponent == 0 ? std::ldexp(fraction, -24)
                                             : std::ldexp(1024 + fraction, exponent - 25);
    return h & 0x8000 ? -magnitude : magnitude;
  }
  // Towards zero; inputs need no better.
  static uint16_t half_bits(double value) {
    if (std::isnan(value)) return 0x7e00;
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const double magnitude = std::fabs(value);
    if (magnitude < std::ldexp(1, -14)) return sign | uint16_t(std::ldexp(magnitude, 24));
    int exponent;
    const double fraction = std::frexp(magnitude, &exponent);
    return sign | uint16_t((exponent + 14) << 10) | uint16_t(std::ldexp(fraction, 11) - 1024);
  }

  int dtype_;
  size_t count_;
  std::unique_ptr<char[]> data_;
};

using Doubles = std::vector<double>;

void threads_run(void* threads, size_t count, void (*task)(void*, size_t), void* data) {
  const size_t number = *static_cast<size_t*>(threads);
  std::vector<std::thread> workers;
  for (size_t w = 0; w < number; ++w) {
    workers.emplace_back([=] {
      for (size_t i = w; i < count; i += number) task(data, i);
    });
  }
  for (std::thread& worker : workers) worker.join();
}

// ||result - truth|| / ||truth|| within a few roundings of the type.
void expect(const std::string& what, const Tensor& result, const Doubles& truth, double bound) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < truth.size(); ++i) {
    error += (result[i] - truth[i]) * (result[i] - truth[i]);
    norm += truth[i] * truth[i];
  }
  const double relative = std::sqrt(error / std::max(norm, 1e-30));
  if (relative <= bound) return;
  std::printf("%s: error %.2e, allowed %.2e\n", what.c_str(), relative, bound);
  ++failures;
}

double bound_of(int dtype) { return dtype == SEQEXPORT_FLOAT32 ? 1e-6 : dtype == SEQEXPORT_FLOAT16 ? 6e-4 : 5e-3; }

std::vector<int32_t> ragged(int batch, int length) {
  std::vector<int32_t> lens(batch);
  for (int b = 0; b < batch; ++b) lens[b] = b == 0 ? length : b == 1 ? 0 : length / 2;
  return lens;
}

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
  const int F = SEQEXPORT_FLOAT32;
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
    for (int t = 0; t < lens[b]; ++t) {
      for (int d = 0; d < D; ++d) {
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

// Up to three projections, of N features each; the second has no bias.
void linear_case(const Kernels& k, const Pool& pool, int dtype, int M, int K, const std::vector<int>& N) {
  Tensor x(dtype, size_t(M) * K);
  x.normal();
  std::vector<Tensor> weights, biases, outputs;
  std::vector<Doubles> truths;
  for (size_t i = 0; i < N.size(); ++i) {
    weights.emplace_back(dtype, size_t(N[i]) * K).normal();
    biases.emplace_back(dtype, N[i]).normal();
    outputs.emplace_back(dtype, size_t(M) * N[i]);
    truths.emplace_back(outputs[i].size());
    for (size_t at = 0; at < truths[i].size(); ++at) {
      const size_t m = at / N[i], n = at % N[i];
      double sum = i == 1 ? 0 : biases[i][n];
      for (int c = 0; c < K; ++c) sum += x[m * K + c] * weights[i][n * K + c];
      truths[i][at] = sum;
    }
  }
  LinearParams p{};
  p.dtype = dtype, p.rows = M, p.in_features = K, p.out_features = N[0], p.x = x.data();
  p.weight = weights[0].data(), p.bias = biases[0].data(), p.y = outputs[0].data();
  if (N.size() > 1) p.out_features1 = N[1], p.weight1 = weights[1].data(), p.y1 = outputs[1].data();
  if (N.size() > 2) {
    p.out_features2 = N[2], p.weight2 = weights[2].data(), p.bias2 = biases[2].data(), p.y2 = outputs[2].data();
  }
  k.linear(p, pool);
  for (size_t i = 0; i < N.size(); ++i) {
    expect(std::string(k.instruction_set) + " linear dtype " + std::to_string(dtype) + " M " + std::to_string(M) +
               " K " + std::to_string(K) + " y" + std::to_string(i) + " N " + std::to_string(N[i]),
           outputs[i], truths[i], bound_of(dtype));
  }
}

void embedding_case(const Kernels& k, const Pool& pool, int dtype, int M, int V, int D) {
  Tensor weight(dtype, size_t(V) * D), y(dtype, size_t(M) * D);
  weight.normal();
  std::vector<int32_t> ids(M);
  Doubles truth(y.size());
  for (int m = 0; m < M; ++m) {
    ids[m] = m % 5 == 3 ? V : m % 5 == 4 ? -1 : m * 7 % V;
    for (int d = 0; m % 5 < 3 && d < D; ++d) truth[size_t(m) * D + d] = weight[size_t(ids[m]) * D + d];
  }
  EmbeddingParams p{};
  p.dtype = dtype, p.rows = M, p.vocab = V, p.channels = D;
  p.weight = weight.data(), p.ids = ids.data(), p.y = y.data();
  k.embedding(p, pool);
  expect(std::string(k.instruction_set) + " embedding dtype " + std::to_string(dtype) + " D " + std::to_string(D), y,
         truth, 0);
}

void last_token_case(const Kernels& k, const Pool& pool, int dtype, int B, int L, int D) {
  Tensor x(dtype, size_t(B) * L * D), y(dtype, size_t(B) * D);
  x.normal();
  auto lens = ragged(B, L);
  lens[B - 1] = L + 9;
  Doubles truth(y.size());
  for (int b = 0; b < B; ++b) {
    const int last = std::min(std::max(lens[b], 1), L) - 1;
    for (int d = 0; d < D; ++d) truth[size_t(b) * D + d] = x[(size_t(b) * L + last) * D + d];
  }
  LastTokenParams p{};
  p.dtype = dtype, p.batch = B, p.length = L, p.channels = D;
  p.x = x.data(), p.seq_lens = lens.data(), p.y = y.data();
  k.last_token(p, pool);
  expect(std::string(k.instruction_set) + " last_token dtype " + std::to_string(dtype) + " D " + std::to_string(D), y,
         truth, 0);
}

void norm_case(const Kernels& k, const Pool& pool, int dtype, int M, int D, bool wide, bool added, bool in_place) {
  const int stream = wide ? int(SEQEXPORT_FLOAT32) : dtype;
  const float epsilon = 1e-5f;
  Tensor x(dtype, size_t(M) * D), weight(dtype, D), residual(stream, x.size()), y(dtype, x.size());
  Tensor sum(stream, x.size());
  for (Tensor* t : {&x, &weight, &residual}) t->normal();
  Doubles truth_y(x.size()), truth_sum(x.size());
  for (int m = 0; m < M; ++m) {
    double squares = 0;
    for (size_t i = size_t(m) * D; i < size_t(m + 1) * D; ++i) {
      truth_sum[i] = x[i] + (added ? residual[i] : 0);
      squares += truth_sum[i] * truth_sum[i];
    }
    const double root = std::sqrt(squares / D + epsilon);
    for (int d = 0; d < D; ++d) truth_y[size_t(m) * D + d] = truth_sum[size_t(m) * D + d] / root * weight[d];
  }
  RmsNormParams p{};
  p.dtype = dtype, p.rows = M, p.channels = D, p.wide = wide, p.epsilon = epsilon;
  p.x = x.data(), p.weight = weight.data(), p.residual = added ? residual.data() : nullptr;
  p.y = in_place ? x.data() : y.data(), p.sum = in_place ? residual.data() : sum.data();
  k.rms_norm(p, pool);
  const std::string what = std::string(k.instruction_set) + " rms_norm dtype " + std::to_string(dtype) + " M " +
                           std::to_string(M) + " D " + std::to_string(D) + (wide ? " wide" : "");
  expect(what + " y", in_place ? x : y, truth_y, bound_of(dtype));
  expect(what + " sum", in_place ? residual : sum, truth_sum, bound_of(stream));
}

void rotary_case(const Kernels& k, const Pool& pool, int dtype, int M, int Hq, int Hkv, int Dh, int R, bool in_place) {
  Tensor cos(dtype, size_t(M) * R), sin(dtype, cos.size());
  Tensor query(dtype, size_t(M) * Hq * Dh), key(dtype, size_t(M) * Hkv * Dh);
  Tensor query_rotated(dtype, query.size()), key_rotated(dtype, key.size());
  for (Tensor* t : {&cos, &sin, &query, &key}) t->normal();
  const auto rotated = [&](const Tensor& x, int heads) {
    Doubles y(x.size());
    for (int m = 0; m < M; ++m) {
      for (int h = 0; h < heads; ++h) {
        const size_t at = (size_t(m) * heads + h) * Dh;
        for (int i = 0; i < Dh; ++i) y[at + i] = x[at + i];
        for (int i = 0; i < R; ++i) {
          const double crossed = i < R / 2 ? -x[at + i + R / 2] : x[at + i - R / 2];
          y[at + i] = x[at + i] * cos[size_t(m) * R + i] + crossed * sin[size_t(m) * R + i];
        }
      }
    }
    return y;
  };
  const Doubles truth_query = rotated(query, Hq), truth_key = rotated(key, Hkv);
  RotaryEmbeddingParams p{};
  p.dtype = dtype, p.rows = M, p.query_heads = Hq, p.kv_heads = Hkv, p.head_dim = Dh, p.rotary_dim = R;
  p.query = query.data(), p.key = key.data(), p.cos = cos.data(), p.sin = sin.data();
  p.query_rotated = in_place ? query.data() : query_rotated.data();
  p.key_rotated = in_place ? key.data() : key_rotated.data();
  k.rotary_embedding(p, pool);
  const std::string what = std::string(k.instruction_set) + " rotary_embedding dtype " + std::to_string(dtype) + " M " +
                           std::to_string(M) + " Dh " + std::to_string(Dh) + " R " + std::to_string(R);
  expect(what + " query", in_place ? query : query_rotated, truth_query, bound_of(dtype));
  expect(what + " key", in_place ? key : key_rotated, truth_key, bound_of(dtype));
}

void run_all(const Kernels& k, const Pool& pool) {
  for (int dtype : {SEQEXPORT_FLOAT32, SEQEXPORT_FLOAT16, SEQEXPORT_BFLOAT16}) {
    for (int L : {1, 2, 63, 500}) {
      for (int D : {1, 33, 200}) conv_case(k, pool, dtype, 3, L, D, 4, L != 2, D != 33);
      for (int D : {1, 33, 80}) scan_case(k, pool, dtype, 3, L, D, 16, 1, -2);
    }
    for (int K : {1, 2, 8, 64}) conv_case(k, pool, dtype, 3, 70, 37, K, false, true);
    scan_case(k, pool, dtype, 3, 40, 30, 5, 4, -2);
    scan_case(k, pool, dtype, 2, 3, 17, 256, 17, -2);
    scan_case(k, pool, dtype, 3, 70, 40, 16, 1, 30);  // decays below the least float
    for (int M : {1, 2, 7, 100}) {
      linear_case(k, pool, dtype, M, 1, {1});
      linear_case(k, pool, dtype, M, 33, {101, 3});
      linear_case(k, pool, dtype, M, 64, {48, 49, 13});
      linear_case(k, pool, dtype, M, 1027, {64});
      embedding_case(k, pool, dtype, M, 11, M == 7 ? 20000 : 33);
      last_token_case(k, pool, dtype, M, 3, M == 7 ? 20000 : 33);
    }
    for (int D : {1, 7, 33, 768, 20000}) {
      for (bool wide : {false, true}) {
        norm_case(k, pool, dtype, 1, D, wide, true, false);
        norm_case(k, pool, dtype, 70, D, wide, false, false);
        norm_case(k, pool, dtype, 70, D, wide, true, true);
      }
    }
    for (int M : {1, 70}) {
      rotary_case(k, pool, dtype, M, 1, 1, 2, 2, false);
      rotary_case(k, pool, dtype, M, 3, 1, 37, 10, true);
      rotary_case(k, pool, dtype, M, 32, 8, 128, 128, true);
      rotary_case(k, pool, dtype, M, 4, 2, 80, 20, false);
    }
    for (int past : {0, 7, 150}) {
      for (int L : {1, 3, 130}) {
        attention_case(k, pool, dtype, 3, L, past, {4, 2, 64, 64}, 0, 0, true);
        attention_case(k, pool, dtype, 3, L, past, {6, 1, 5, 7}, 9, 3, false);
        attention_case(k, pool, dtype, 2, L, past, {3, 3, 80, 256}, 40, 0, L == 3);
      }
    }
  }
}

}  // namespace

int main() {
  size_t threads = 3;
  for (const Kernels* k = all_kernels(); k->instruction_set; ++k) {
    if (!k->supported()) {
      std::printf("%s: not on this processor\n", k->instruction_set);
      continue;
    }
    const int before = failures;
    run_all(*k, {threads_run, &threads});
    std::printf("%s: %s\n", k->instruction_set, failures == before ? "passed" : "FAILED");
  }
  return failures ? 1 : 0;
}
