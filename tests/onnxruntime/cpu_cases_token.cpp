#include <algorithm>
#include <cmath>

#include "cpu_cases.h"
#include "embedding.h"
#include "last_token.h"
#include "linear.h"
#include "rms_norm.h"
#include "rotary_embedding.h"

using namespace seqexport::cpu;

namespace {

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

// Gated: by a window of a wider z, after the norm where nothing is added, and in two groups.
void norm_case(const Kernels& k, const Pool& pool, int dtype, int M, int D, bool wide, bool added, bool in_place,
               bool gated = false) {
  const int stream = wide ? int(SEQEXPORT_FLOAT32) : dtype, groups = gated && D % 2 == 0 ? 2 : 1, width = D / groups;
  const int z_stride = D + 5, z_at = 3;
  const float epsilon = 1e-5f;
  Tensor x(dtype, size_t(M) * D), weight(dtype, D), residual(stream, x.size()), y(dtype, x.size());
  Tensor sum(stream, x.size()), z(dtype, size_t(M) * z_stride);
  for (Tensor* t : {&x, &weight, &residual, &z}) t->normal();
  Doubles truth_y(x.size()), truth_sum(x.size());
  const auto gate = [&](int m, int d) {
    const double g = z[size_t(m) * z_stride + z_at + d];
    return gated ? g / (1 + std::exp(-g)) : 1;
  };
  for (int m = 0; m < M; ++m) {
    Doubles squares(groups);
    for (int d = 0; d < D; ++d) {
      const size_t i = size_t(m) * D + d;
      truth_sum[i] = added ? x[i] * gate(m, d) + residual[i] : double(x[i]);
      squares[d / width] += truth_sum[i] * truth_sum[i];
    }
    for (int d = 0; d < D; ++d) {
      const size_t i = size_t(m) * D + d;
      const double unit = truth_sum[i] / std::sqrt(squares[d / width] / width + epsilon);
      truth_y[i] = unit * weight[d] * (added ? 1 : gate(m, d));
    }
  }
  RmsNormParams p{};
  p.dtype = dtype, p.rows = M, p.channels = D, p.groups = groups, p.wide = wide, p.epsilon = epsilon;
  p.norm_before_gate = !added, p.z_stride = z_stride;
  p.x = x.data(), p.weight = weight.data(), p.residual = added ? residual.data() : nullptr;
  p.z = gated ? z.data(z_at) : nullptr;
  p.y = in_place ? x.data() : y.data(), p.sum = in_place ? residual.data() : sum.data();
  k.rms_norm(p, pool);
  const std::string what = std::string(k.instruction_set) + " rms_norm dtype " + std::to_string(dtype) + " M " +
                           std::to_string(M) + " D " + std::to_string(D) + (wide ? " wide" : "") +
                           (gated ? " gated" : "");
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

}  // namespace

void run_token_cases(const Kernels& k, const Pool& pool, int dtype) {
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
      norm_case(k, pool, dtype, 70, D, wide, true, true, true);
      norm_case(k, pool, dtype, 70, D, wide, false, true, true);
    }
  }
  for (int M : {1, 70}) {
    rotary_case(k, pool, dtype, M, 1, 1, 2, 2, false);
    rotary_case(k, pool, dtype, M, 3, 1, 37, 10, true);
    rotary_case(k, pool, dtype, M, 32, 8, 128, 128, true);
    rotary_case(k, pool, dtype, M, 4, 2, 80, 20, false);
  }
}
