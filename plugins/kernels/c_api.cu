// Argument checks and error messages around the kernels.
#include "c_api.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace {

constexpr auto element_bytes = seqexport_element_bytes;

thread_local char last_error[512] = "";

enum Status { kOk = 0, kBadArgument = 1, kCudaError = 2 };

// Collects the first failed check of a call.
class Checks {
 public:
  explicit Checks(const char* op) : op_(op) { last_error[0] = '\0'; }

  void require(bool holds, const char* format, ...) {
    if (holds || failed_) return;
    failed_ = true;
    const int n = std::snprintf(last_error, sizeof last_error, "%s: ", op_);
    va_list args;
    va_start(args, format);
    std::vsnprintf(last_error + n, sizeof last_error - n, format, args);
    va_end(args);
  }

  void in_range(const char* name, long long value, long long low, long long high) {
    require(low <= value && value <= high, "%s must be in %lld to %lld, got %lld", name, low, high, value);
  }
  void pointer(const char* name, const void* p) {
    require(p != nullptr, "%s is null; pass the device pointer of a tensor", name);
  }
  void aligned(const char* name, const void* p, unsigned bytes) {
    require(reinterpret_cast<uintptr_t>(p) % bytes == 0, "%s must be aligned to %u bytes, got %p", name, bytes, p);
  }
  void stride(const char* name, long long value, long long row) {
    require(value >= row, "%s must be at least a token's %lld elements, got %lld", name, row, value);
  }
  bool failed() const { return failed_; }

 private:
  const char* op_;
  bool failed_ = false;
};

constexpr long long kMaxDim = 1 << 30, kMaxGridRows = 65535;

void check_dtype(Checks& c, int dtype) {
  c.require(dtype >= SEQEXPORT_FLOAT32 && dtype <= SEQEXPORT_BFLOAT16,
            "dtype must be 0 (float32), 1 (float16) or 2 (bfloat16), got %d", dtype);
}

void check_rows(Checks& c, int dtype, int rows) {
  check_dtype(c, dtype);
  c.in_range("rows (B * L)", rows, 1, kMaxDim);
}

void check_sizes(Checks& c, int dtype, int batch, int length) {
  check_dtype(c, dtype);
  c.in_range("batch (B)", batch, 1, kMaxGridRows);
  c.in_range("length (L)", length, 1, kMaxDim);
}

void check_sizes(Checks& c, const SelectiveScanParams& p) {
  check_sizes(c, p.dtype, p.batch, p.length);
  c.in_range("channels (D)", p.channels, 1, kMaxDim);
  c.in_range("states (N)", p.states, 1, 256);
  c.in_range("groups (G)", p.groups, 1, p.channels);
  c.in_range("chunks", p.chunks, 0, kMaxGridRows);
}

void check_sizes(Checks& c, const CausalAttentionParams& p) {
  check_sizes(c, p.dtype, p.batch, p.length);
  c.in_range("kv_heads (Hkv)", p.kv_heads, 1, kMaxGridRows);
  c.in_range("query_heads (Hq)", p.query_heads, 1, kMaxGridRows);
  c.require(c.failed() || p.query_heads % p.kv_heads == 0,
            "query_heads (Hq) must be a multiple of kv_heads (Hkv), got %d and %d", p.query_heads, p.kv_heads);
  c.in_range("key_dim (Dh)", p.key_dim, 1, 256);
  c.in_range("value_dim (Dv)", p.value_dim, 1, 256);
  c.in_range("capacity (S)", p.capacity, 1, kMaxDim);
  c.in_range("window", p.window, 0, kMaxDim);
  c.in_range("splits", p.splits, 0, kMaxGridRows);
  c.require((long long)p.length * p.query_heads * p.batch <= 0x7fffffffLL,
            "batch * length * query_heads must be below 2^31, got %lld", (long long)p.length * p.query_heads * p.batch);
}

void check_sizes(Checks& c, const LinearParams& p) {
  check_rows(c, p.dtype, p.rows);
  c.in_range("in_features (K)", p.in_features, 1, kMaxDim);
  c.in_range("out_features (N)", p.out_features, 1, kMaxDim);
  c.in_range("out_features1 (N1)", p.out_features1, 0, kMaxDim - p.out_features);
  c.in_range("out_features2 (N2)", p.out_features2, 0,
             p.out_features1 > 0 ? kMaxDim - p.out_features - p.out_features1 : 0);
}

int finish(const char* op, cudaError_t e) {
  if (e == cudaSuccess) return kOk;
  std::snprintf(last_error, sizeof last_error, "%s: CUDA refused the launch: %s (%s)", op, cudaGetErrorString(e),
                cudaGetErrorName(e));
  return kCudaError;
}

}  // namespace

extern "C" {

int seqexport_kernels_abi(void) { return SEQEXPORT_KERNELS_ABI; }

const char* seqexport_last_error(void) { return last_error; }

int seqexport_causal_conv1d(const CausalConv1dParams* params, void* stream) {
  const char* op = "causal_conv1d";
  Checks c(op);
  c.pointer("params", params);
  if (c.failed()) return kBadArgument;
  const CausalConv1dParams& p = *params;
  check_sizes(c, p.dtype, p.batch, p.length);
  c.in_range("channels (D)", p.channels, 1, kMaxDim);
  c.in_range("kernel_size (K)", p.kernel_size, 2, 8);
  c.require(p.activation == SEQEXPORT_ACTIVATION_NONE || p.activation == SEQEXPORT_ACTIVATION_SILU,
            "activation must be 0 (none) or 1 (silu), got %d", p.activation);
  c.stride("x_stride", p.x_stride, p.channels);
  const struct { const char* name; const void* p; } tensors[] = {
      {"x", p.x}, {"weight", p.weight}, {"past", p.past}, {"y", p.y}, {"present", p.present}};
  for (const auto& t : tensors) {
    c.pointer(t.name, t.p);
    c.aligned(t.name, t.p, element_bytes(p.dtype));
  }
  c.aligned("bias", p.bias, element_bytes(p.dtype));
  c.require(p.y != p.x, "y must not be x: neighbouring tokens still read it");
  if (c.failed()) return kBadArgument;
  return finish(op, seqexport::causal_conv1d(p, static_cast<cudaStream_t>(stream)));
}

size_t seqexport_selective_scan_workspace(const SelectiveScanParams* params) {
  Checks c("selective_scan_workspace");
  c.pointer("params", params);
  if (!c.failed()) check_sizes(c, *params);
  return c.failed() ? 0 : seqexport::selective_scan_workspace(*params);
}

int seqexport_selective_scan(const SelectiveScanParams* params, void* stream) {
  const char* op = "selective_scan";
  Checks c(op);
  c.pointer("params", params);
  if (c.failed()) return kBadArgument;
  const SelectiveScanParams& p = *params;
  check_sizes(c, p);
  c.stride("x_stride", p.x_stride, p.channels);
  c.stride("dt_stride", p.dt_stride, p.channels);
  if (p.z) c.stride("z_stride", p.z_stride, p.channels);
  c.stride("B_stride", p.B_stride, (long long)p.groups * p.states);
  c.stride("C_stride", p.C_stride, (long long)p.groups * p.states);
  const struct { const char* name; const void* p; unsigned bytes; bool optional; } tensors[] = {
      {"x", p.x, element_bytes(p.dtype), false}, {"dt", p.dt, element_bytes(p.dtype), false},
      {"A", p.A, 4, false},                      {"B", p.B, element_bytes(p.dtype), false},
      {"C", p.C, element_bytes(p.dtype), false}, {"D", p.D, 4, true},
      {"z", p.z, element_bytes(p.dtype), true},  {"dt_bias", p.dt_bias, 4, true},
      {"past", p.past, 4, false},                {"seq_lens", p.seq_lens, 4, true},
      {"y", p.y, element_bytes(p.dtype), false}, {"present", p.present, 4, false},
      {"workspace", p.workspace, 16, true}};
  for (const auto& t : tensors) {
    if (!t.optional) c.pointer(t.name, t.p);
    c.aligned(t.name, t.p, t.bytes);
  }
  if (c.failed()) return kBadArgument;
  return finish(op, seqexport::selective_scan(p, static_cast<cudaStream_t>(stream)));
}

size_t seqexport_causal_attention_workspace(const CausalAttentionParams* params) {
  Checks c("causal_attention_workspace");
  c.pointer("params", params);
  if (!c.failed()) check_sizes(c, *params);
  return c.failed() ? 0 : seqexport::causal_attention_workspace(*params);
}

int seqexport_causal_attention(const CausalAttentionParams* params, void* stream) {
  const char* op = "causal_attention";
  Checks c(op);
  c.pointer("params", params);
  if (c.failed()) return kBadArgument;
  const CausalAttentionParams& p = *params;
  check_sizes(c, p);
  c.stride("query_stride", p.query_stride, (long long)p.query_heads * p.key_dim);
  c.stride("key_stride", p.key_stride, (long long)p.kv_heads * p.key_dim);
  c.stride("value_stride", p.value_stride, (long long)p.kv_heads * p.value_dim);
  c.require(std::isfinite(p.scale) && p.scale > 0.f, "scale must be finite and above 0, got %g", double(p.scale));
  c.require(std::isfinite(p.softcap) && p.softcap >= 0.f, "softcap must be finite and 0 or more, got %g",
            double(p.softcap));
  const struct { const char* name; const void* p; } tensors[] = {
      {"query", p.query},           {"key", p.key},   {"value", p.value},
      {"past_key", p.past_key},     {"past_value", p.past_value},
      {"present_key", p.present_key}, {"present_value", p.present_value}, {"y", p.y}};
  for (const auto& t : tensors) {
    c.pointer(t.name, t.p);
    c.aligned(t.name, t.p, element_bytes(p.dtype));
  }
  c.pointer("past_lens", p.past_lens);
  c.aligned("past_lens", p.past_lens, 4);
  c.aligned("seq_lens", p.seq_lens, 4);
  c.aligned("workspace", p.workspace, 16);
  if (c.failed()) return kBadArgument;
  return finish(op, seqexport::causal_attention(p, static_cast<cudaStream_t>(stream)));
}

size_t seqexport_linear_workspace(const LinearParams* params) {
  Checks c("linear_workspace");
  c.pointer("params", params);
  if (!c.failed()) check_sizes(c, *params);
  return c.failed() ? 0 : seqexport::linear_workspace(*params);
}

int seqexport_linear(const LinearParams* params, void* stream) {
  const char* op = "linear";
  Checks c(op);
  c.pointer("params", params);
  if (c.failed()) return kBadArgument;
  const LinearParams& p = *params;
  check_sizes(c, p);
  const struct { const char* name; const void* p; bool needed; } tensors[] = {
      {"x", p.x, true},
      {"weight", p.weight, true},
      {"bias", p.bias, false},
      {"y", p.y, true},
      {"weight1", p.weight1, p.out_features1 > 0},
      {"bias1", p.bias1, false},
      {"y1", p.y1, p.out_features1 > 0},
      {"weight2", p.weight2, p.out_features2 > 0},
      {"bias2", p.bias2, false},
      {"y2", p.y2, p.out_features2 > 0}};
  for (const auto& t : tensors) {
    if (t.needed) c.pointer(t.name, t.p);
    c.aligned(t.name, t.p, element_bytes(p.dtype));
  }
  c.aligned("workspace", p.workspace, 16);
  if (c.failed()) return kBadArgument;
  const cudaError_t e = seqexport::linear(p, static_cast<cudaStream_t>(stream));
  if (e != cudaErrorSharedObjectInitFailed) return finish(op, e);
  std::snprintf(last_error, sizeof last_error, "%s: %s", op, seqexport::linear_fault());
  return kCudaError;
}

int seqexport_embedding(const EmbeddingParams* params, void* stream) {
  const char* op = "embedding";
  Checks c(op);
  c.pointer("params", params);
  if (c.failed()) return kBadArgument;
  const EmbeddingParams& p = *params;
  check_rows(c, p.dtype, p.rows);
  c.in_range("vocab (V)", p.vocab, 1, kMaxDim);
  c.in_range("channels (D)", p.channels, 1, kMaxDim);
  const struct { const char* name; const void* p; unsigned bytes; } tensors[] = {
      {"weight", p.weight, element_bytes(p.dtype)}, {"ids", p.ids, 4}, {"y", p.y, element_bytes(p.dtype)}};
  for (const auto& t : tensors) {
    c.pointer(t.name, t.p);
    c.aligned(t.name, t.p, t.bytes);
  }
  if (c.failed()) return kBadArgument;
  return finish(op, seqexport::embedding(p, static_cast<cudaStream_t>(stream)));
}

int seqexport_last_token(const LastTokenParams* params, void* stream) {
  const char* op = "last_token";
  Checks c(op);
  c.pointer("params", params);
  if (c.failed()) return kBadArgument;
  const LastTokenParams& p = *params;
  check_sizes(c, p.dtype, p.batch, p.length);
  c.in_range("channels (D)", p.channels, 1, kMaxDim);
  const struct { const char* name; const void* p; unsigned bytes; } tensors[] = {
      {"x", p.x, element_bytes(p.dtype)}, {"seq_lens", p.seq_lens, 4}, {"y", p.y, element_bytes(p.dtype)}};
  for (const auto& t : tensors) {
    c.pointer(t.name, t.p);
    c.aligned(t.name, t.p, t.bytes);
  }
  if (c.failed()) return kBadArgument;
  return finish(op, seqexport::last_token(p, static_cast<cudaStream_t>(stream)));
}

int seqexport_rms_norm(const RmsNormParams* params, void* stream) {
  const char* op = "rms_norm";
  Checks c(op);
  c.pointer("params", params);
  if (c.failed()) return kBadArgument;
  const RmsNormParams& p = *params;
  check_rows(c, p.dtype, p.rows);
  c.in_range("channels (D)", p.channels, 1, kMaxDim);
  c.in_range("wide", p.wide, 0, 1);
  c.require(std::isfinite(p.epsilon) && p.epsilon >= 0.f, "epsilon must be finite and 0 or more, got %g",
            double(p.epsilon));
  const unsigned stream_bytes = p.wide ? 4 : element_bytes(p.dtype);
  const struct { const char* name; const void* p; } tensors[] = {{"x", p.x}, {"weight", p.weight}, {"y", p.y}};
  for (const auto& t : tensors) {
    c.pointer(t.name, t.p);
    c.aligned(t.name, t.p, element_bytes(p.dtype));
  }
  c.aligned("residual", p.residual, stream_bytes);
  c.aligned("sum", p.sum, stream_bytes);
  if (c.failed()) return kBadArgument;
  return finish(op, seqexport::rms_norm(p, static_cast<cudaStream_t>(stream)));
}

int seqexport_rotary_embedding(const RotaryEmbeddingParams* params, void* stream) {
  const char* op = "rotary_embedding";
  Checks c(op);
  c.pointer("params", params);
  if (c.failed()) return kBadArgument;
  const RotaryEmbeddingParams& p = *params;
  check_rows(c, p.dtype, p.rows);
  c.in_range("query_heads (Hq)", p.query_heads, 1, kMaxGridRows);
  c.in_range("kv_heads (Hkv)", p.kv_heads, 1, kMaxGridRows);
  c.in_range("head_dim (Dh)", p.head_dim, 1, kMaxGridRows);
  c.in_range("rotary_dim (R)", p.rotary_dim, 2, p.head_dim);
  c.require(p.rotary_dim % 2 == 0, "rotary_dim (R) must be even, got %d", p.rotary_dim);
  const struct { const char* name; const void* p; } tensors[] = {
      {"query", p.query}, {"key", p.key}, {"cos", p.cos}, {"sin", p.sin},
      {"query_rotated", p.query_rotated}, {"key_rotated", p.key_rotated}};
  for (const auto& t : tensors) {
    c.pointer(t.name, t.p);
    c.aligned(t.name, t.p, element_bytes(p.dtype));
  }
  if (c.failed()) return kBadArgument;
  return finish(op, seqexport::rotary_embedding(p, static_cast<cudaStream_t>(stream)));
}

}  // extern "C"
