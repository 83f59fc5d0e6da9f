// A short list of calls for compute-sanitizer, every tensor in an allocation of exactly its size:
//   nvcc -std=c++17 -I plugins/kernels sanitizer_cases.cu libseqexport_kernels.so -o cases
//   compute-sanitizer --tool memcheck|racecheck|initcheck|synccheck ./cases
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "c_api.h"
#include "causal_attention.h"
#include "causal_conv1d.h"
#include "embedding.h"
#include "experts.h"
#include "last_token.h"
#include "linear.h"
#include "rms_norm.h"
#include "rotary_embedding.h"
#include "selective_scan.h"
#include "ssd_scan.h"
#include "top_k_router.h"

namespace {

std::vector<void*> allocations;

void check(cudaError_t e) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(e));
  std::exit(1);
}

void check(int status) {
  if (status == 0) return;
  std::fprintf(stderr, "%s\n", seqexport_last_error());
  std::exit(1);
}

void* upload(const void* host, size_t bytes) {
  void* device = nullptr;
  check(cudaMalloc(&device, bytes));
  check(cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice));
  allocations.push_back(device);
  return device;
}

float uniform() { return float(std::rand()) / float(RAND_MAX) - 0.5f; }

float* floats(size_t count, float scale = 1.f, float offset = 0.f) {
  std::vector<float> host(count);
  for (float& v : host) v = uniform() * scale + offset;
  return static_cast<float*>(upload(host.data(), count * 4));
}

void* values(int dtype, size_t count) {
  if (dtype == SEQEXPORT_FLOAT32) return floats(count);
  std::vector<uint16_t> host(count);
  for (uint16_t& v : host) v = uint16_t((dtype == SEQEXPORT_FLOAT16 ? 0x3000 : 0x3e00) + std::rand() % 0x400);
  return upload(host.data(), count * 2);
}

int32_t* ints(const std::vector<int32_t>& host) { return static_cast<int32_t*>(upload(host.data(), host.size() * 4)); }

void* output(int dtype, size_t count) {
  void* device = nullptr;
  check(cudaMalloc(&device, count * seqexport_element_bytes(dtype)));
  allocations.push_back(device);
  return device;
}

void finish(const char* name) {
  check(cudaDeviceSynchronize());
  for (void* p : allocations) check(cudaFree(p));
  allocations.clear();
  std::printf("%s\n", name);
}

void conv(int dtype, int batch, int length, int channels, int taps, bool ragged) {
  CausalConv1dParams p = {dtype, batch, length, channels, taps, SEQEXPORT_ACTIVATION_SILU, channels};
  p.x = values(dtype, size_t(batch) * length * channels);
  p.weight = values(dtype, size_t(channels) * taps);
  p.bias = values(dtype, channels);
  p.past = p.present = values(dtype, size_t(batch) * channels * (taps - 1));
  p.seq_lens = ragged ? ints(std::vector<int32_t>(batch, length / 2)) : nullptr;
  p.y = output(dtype, size_t(batch) * length * channels);
  check(seqexport_causal_conv1d(&p, nullptr));
  finish("causal_conv1d");
}

void scan(int dtype, int batch, int length, int channels, int states, int groups, int chunks, bool ragged) {
  SelectiveScanParams p = {dtype, batch, length, channels, states, groups, 1, groups / 2, chunks};
  p.x_stride = p.dt_stride = p.z_stride = channels;
  p.B_stride = p.C_stride = groups * states;
  const size_t tokens = size_t(batch) * length;
  p.x = values(dtype, tokens * channels);
  p.dt = values(dtype, tokens * channels);
  p.z = values(dtype, tokens * channels);
  p.B = values(dtype, tokens * groups * states);
  p.C = values(dtype, tokens * groups * states);
  p.A = floats(size_t(channels) * states, 1.f, -1.f);
  p.D = floats(channels);
  p.dt_bias = floats(channels);
  p.past = p.present = floats(size_t(batch) * channels * states);
  p.seq_lens = ragged ? ints(std::vector<int32_t>(batch, length / 2)) : nullptr;
  p.y = output(dtype, tokens * channels);
  p.workspace_bytes = size_t(chunks) * batch * channels * (states + 1) * 4;
  p.workspace = chunks > 1 ? output(SEQEXPORT_FLOAT32, p.workspace_bytes / 4) : nullptr;
  check(seqexport_selective_scan(&p, nullptr));
  finish("selective_scan");
}

void ssd(int dtype, int batch, int length, int heads, int head_size, int states, int groups, int segments, bool ragged) {
  SsdScanParams p = {dtype, batch, length, heads, head_size, states, groups, 1, 0.01f, 0.5f, segments};
  const size_t tokens = size_t(batch) * length, channels = size_t(heads) * head_size;
  p.x_stride = p.z_stride = channels, p.dt_stride = heads;
  p.B_stride = p.C_stride = groups * states;
  p.x = values(dtype, tokens * channels);
  p.dt = values(dtype, tokens * heads);
  p.z = values(dtype, tokens * channels);
  p.B = values(dtype, tokens * groups * states);
  p.C = values(dtype, tokens * groups * states);
  p.A = floats(heads, 1.f, -1.f);
  p.D = floats(heads);
  p.dt_bias = floats(heads);
  p.past = p.present = floats(batch * channels * states);
  p.seq_lens = ragged ? ints(std::vector<int32_t>(batch, length / 2)) : nullptr;
  p.y = output(dtype, tokens * channels);
  p.workspace_bytes = size_t(16) << 20;
  p.workspace = output(SEQEXPORT_FLOAT32, p.workspace_bytes / 4);
  check(seqexport_ssd_scan(&p, nullptr));
  finish("ssd_scan");
}

void attention(int dtype, int length, int query_heads, int kv_heads, int key_dim, int value_dim, int past, int splits,
               bool in_place, int window = 0) {
  const int batch = 2, capacity = past + length - 1;
  CausalAttentionParams p = {dtype, batch, length, query_heads, kv_heads, key_dim, value_dim, capacity, window, splits};
  p.scale = 0.1f;
  p.softcap = window ? 20.f : 0.f;
  p.query_stride = query_heads * key_dim;
  p.key_stride = kv_heads * key_dim;
  p.value_stride = kv_heads * value_dim;
  const size_t tokens = size_t(batch) * length, cache = size_t(batch) * kv_heads * capacity;
  p.query = values(dtype, tokens * query_heads * key_dim);
  p.key = values(dtype, tokens * kv_heads * key_dim);
  p.value = values(dtype, tokens * kv_heads * value_dim);
  p.past_key = values(dtype, cache * key_dim);
  p.past_value = values(dtype, cache * value_dim);
  p.present_key = in_place ? const_cast<void*>(p.past_key) : output(dtype, cache * key_dim);
  p.present_value = in_place ? const_cast<void*>(p.past_value) : output(dtype, cache * value_dim);
  p.past_lens = ints({past, past / 2});
  p.seq_lens = ints({length, length / 2});
  p.y = output(dtype, tokens * query_heads * value_dim);
  p.workspace_bytes = size_t(splits) * tokens * query_heads * (value_dim * 4 + 8);
  p.workspace = splits > 1 ? output(SEQEXPORT_FLOAT32, p.workspace_bytes / 4) : nullptr;
  check(seqexport_causal_attention(&p, nullptr));
  finish("causal_attention");
}

void linear(int dtype, int rows, int in_features, int out_features, int out_features1) {
  LinearParams p = {dtype, rows, in_features, out_features, out_features1};
  p.x = values(dtype, size_t(rows) * in_features);
  p.weight = values(dtype, size_t(out_features) * in_features);
  p.bias = values(dtype, out_features);
  p.y = output(dtype, size_t(rows) * out_features);
  if (out_features1 > 0) {
    p.weight1 = values(dtype, size_t(out_features1) * in_features);
    p.y1 = output(dtype, size_t(rows) * out_features1);
  }
  check(seqexport_linear(&p, nullptr));
  finish("linear");
}

void experts(int dtype, int rows, int channels, int choices, int experts, int hidden, int gated) {
  ExpertsParams p = {dtype, rows, channels, choices, experts, hidden * (1 + gated), hidden, gated, SEQEXPORT_SILU};
  std::vector<int32_t> chosen(size_t(rows) * choices);
  for (int32_t& each : chosen) each = std::rand() % (experts + 2) - 1;  // some of no expert
  p.x = values(dtype, size_t(rows) * channels);
  p.chosen = ints(chosen);
  p.weight = floats(chosen.size());
  p.gate_up = values(dtype, size_t(experts) * p.gate_up_channels * channels);
  p.down = values(dtype, size_t(experts) * channels * hidden);
  p.gate_up_bias = values(dtype, size_t(experts) * p.gate_up_channels);
  p.down_bias = values(dtype, size_t(experts) * channels);
  p.y = output(dtype, size_t(rows) * channels);
  p.workspace_bytes = seqexport_experts_workspace(&p);
  p.workspace = output(SEQEXPORT_FLOAT32, (p.workspace_bytes + 3) / 4);
  check(seqexport_experts(&p, nullptr));
  finish("experts");
}

void router(int dtype, int rows, int experts, int k, int groups, int kept_groups) {
  TopKRouterParams p = {dtype, rows, experts, k, SEQEXPORT_SIGMOID, 1, groups, kept_groups, 1e-6f, 2.5f};
  p.logits = values(dtype, size_t(rows) * experts);
  p.bias = floats(experts);
  p.chosen = static_cast<int32_t*>(output(SEQEXPORT_FLOAT32, size_t(rows) * k));
  p.weight = static_cast<float*>(output(SEQEXPORT_FLOAT32, size_t(rows) * k));
  check(seqexport_top_k_router(&p, nullptr));
  p.score = SEQEXPORT_SOFTMAX;
  check(seqexport_top_k_router(&p, nullptr));
  finish("top_k_router");
}

void norm(int dtype, int rows, int channels, bool wide, bool with_residual, int groups = 0) {  // 0: no gate either
  const int stream = wide ? int(SEQEXPORT_FLOAT32) : dtype;
  RmsNormParams p = {dtype, rows, channels, groups ? groups : 1, !with_residual, wide, 1e-5f};
  p.z_stride = channels;
  p.z = groups ? values(dtype, size_t(rows) * channels) : nullptr;
  p.x = values(dtype, size_t(rows) * channels);
  p.weight = values(dtype, channels);
  p.residual = with_residual ? values(stream, size_t(rows) * channels) : nullptr;
  p.y = output(dtype, size_t(rows) * channels);
  p.sum = with_residual ? output(stream, size_t(rows) * channels) : nullptr;
  check(seqexport_rms_norm(&p, nullptr));
  finish("rms_norm");
}

void rotary(int dtype, int rows, int query_heads, int kv_heads, int head_dim, int rotary_dim) {
  RotaryEmbeddingParams p = {dtype, rows, query_heads, kv_heads, head_dim, rotary_dim};
  p.query = values(dtype, size_t(rows) * query_heads * head_dim);
  p.key = values(dtype, size_t(rows) * kv_heads * head_dim);
  p.cos = values(dtype, size_t(rows) * rotary_dim);
  p.sin = values(dtype, size_t(rows) * rotary_dim);
  p.query_rotated = output(dtype, size_t(rows) * query_heads * head_dim);
  p.key_rotated = output(dtype, size_t(rows) * kv_heads * head_dim);
  check(seqexport_rotary_embedding(&p, nullptr));
  finish("rotary_embedding");
}

void copies(int dtype, int rows, int channels) {
  EmbeddingParams e = {dtype, rows, 7, channels};
  e.weight = values(dtype, size_t(7) * channels);
  std::vector<int32_t> ids(rows, 6);
  ids.back() = 7;
  e.ids = ints(ids);
  e.y = output(dtype, size_t(rows) * channels);
  check(seqexport_embedding(&e, nullptr));
  finish("embedding");
  LastTokenParams l = {dtype, 2, rows, channels};
  l.x = values(dtype, size_t(2) * rows * channels);
  l.seq_lens = ints({0, rows});
  l.y = output(dtype, size_t(2) * channels);
  check(seqexport_last_token(&l, nullptr));
  finish("last_token");
}

}  // namespace

int main() {
  for (int dtype = SEQEXPORT_FLOAT32; dtype <= SEQEXPORT_BFLOAT16; ++dtype) {
    conv(dtype, 2, 70, 33, 4, true);
    conv(dtype, 33, 70, 8192, 4, false);
    scan(dtype, 2, 1, 33, 16, 1, 1, false);
    scan(dtype, 2, 100, 33, 17, 3, 1, true);
    scan(dtype, 1, 300, 96, 16, 1, 4, false);
    scan(dtype, 10, 40, 1536, 16, 1, 1, false);
    scan(dtype, 40, 40, 768, 16, 1, 1, false);
    scan(dtype, 1, 600, 1100, 16, 1, 0, true);
    ssd(dtype, 2, 1, 5, 64, 128, 1, 0, false);
    ssd(dtype, 2, 1, 3, 33, 17, 3, 0, true);
    ssd(dtype, 1, 300, 4, 64, 128, 2, 0, true);
    ssd(dtype, 8, 70, 40, 64, 128, 1, 0, false);
    ssd(dtype, 8, 200, 54, 64, 64, 1, 0, true);
    ssd(dtype, 8, 200, 40, 64, 128, 1, 0, true);
    ssd(dtype, 3, 1352, 30, 64, 128, 1, 0, false);
    ssd(dtype, 2, 150, 3, 80, 64, 1, 2, true);
    ssd(dtype, 2, 100, 2, 80, 100, 1, 3, false);
    ssd(dtype, 1, 130, 2, 7, 16, 1, 0, false);
    ssd(dtype, 1, 70, 1, 256, 256, 1, 0, true);
    attention(dtype, 1, 8, 2, 64, 64, 500, 3, true);
    attention(dtype, 5, 4, 2, 80, 64, 100, 1, false);
    attention(dtype, 150, 4, 2, 64, 64, 40, 1, true);
    attention(dtype, 150, 2, 2, 128, 96, 40, 1, false);
    attention(dtype, 20, 2, 1, 33, 17, 40, 2, true);
    attention(dtype, 1, 4, 4, 128, 128, 300, 2, true, 70);
    attention(dtype, 90, 2, 1, 64, 64, 40, 1, true, 33);
    linear(dtype, 1, 768, 3000, 0);
    linear(dtype, 3, 1024, 17, 5);
    linear(dtype, 8, 33, 9, 4);
    for (int gated : {0, 1}) {
      for (int rows : {1, 5, 150}) {
        experts(dtype, rows, 136, 3, 7, 72, gated);
        experts(dtype, rows, 33, 2, 5, 9, gated);
      }
    }
    router(dtype, 1, 1, 1, 1, 1);
    router(dtype, 7, 33, 5, 1, 1);
    router(dtype, 130, 256, 8, 8, 4);
    copies(dtype, 5, 33);
    copies(dtype, 3, 768);
    for (bool wide : {false, true}) {
      norm(dtype, 13, 200, wide, true);
      norm(dtype, 3, 33, wide, false);
      norm(dtype, 2, 2568, wide, true);
      norm(dtype, 2, 20000, wide, true);
      norm(dtype, 1, 2051, wide, true);
      norm(dtype, 5, 2056, wide, true, 1);
      norm(dtype, 3, 72, wide, false, 9);
      norm(dtype, 2, 20000, wide, false, 1);
    }
    rotary(dtype, 3, 32, 8, 128, 128);
    rotary(dtype, 5, 3, 1, 80, 20);
    rotary(dtype, 2, 4, 2, 11, 6);
  }
  std::printf("all cases ran\n");
}
