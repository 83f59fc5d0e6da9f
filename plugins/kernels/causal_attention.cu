// Causal attention over a KV cache with room for S tokens a row.
//
//   y[b,t,h] = softmax_j(score(query[b,t,h] . key_j)) value_j over the keys j that query past_lens[b] + t sees;
//   present = past with this call's keys and values in rows past_lens[b] and on.
//
// Chooses between tensor-core prefill, tensor-core decode (keys split over blocks) and fp32 arithmetic, and merges the
// splits of the last two: out = sum_s 2^(max_s - max) values_s / sum_s 2^(max_s - max) sum_s.
#include "causal_attention.h"

#include <algorithm>

#include "causal_attention_kernels.h"
#include "launch.cuh"

namespace seqexport {
namespace {

constexpr int kMaxSplits = 128;
constexpr int kMinKeysPerSplit = 128;
constexpr int kCombineThreads = 256;  // at least the widest value_dim
constexpr int kDecodeRows = 64;  // packed rows up to which reading the cache, not arithmetic, is the bound

enum class Path { kPrefill, kDecode, kSimt };

// A block a query row: every warp weighs the splits for itself, then neighbouring threads take a row's columns and the
// groups of them, `lanes` in all, every lanes-th split, so that all loads of a thread are under way at once.
template <typename T>
__global__ void __launch_bounds__(kCombineThreads) combine_kernel(CausalAttentionParams p, SplitResults results) {
  constexpr int kNorms = kMaxSplits / 32;
  __shared__ float weight[kMaxSplits], partial[kCombineThreads];
  const int64_t row = blockIdx.x;
  const int b = int(row / (int64_t(p.length) * p.query_heads)), t = int(row / p.query_heads % p.length);
  const int len = p.seq_lens ? min(max(p.seq_lens[b], 0), p.length) : p.length;
  const int dim = p.value_dim, columns = ceil_div(dim, 32) * 32, lanes = kCombineThreads / columns;
  wait_for_previous_kernel();

  float2 norm[kNorms];
  float top = -INFINITY, sum = 0.f;
#pragma unroll
  for (int i = 0; i < kNorms; ++i) {
    const int s = threadIdx.x % 32 + 32 * i;
    norm[i] = s < results.splits ? results.norms[s * results.rows + row] : make_float2(-INFINITY, 0.f);
    top = fmaxf(top, norm[i].x);
  }
#pragma unroll
  for (int w = 16; w >= 1; w /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, w));
#pragma unroll
  for (int i = 0; i < kNorms; ++i) {
    const float scale = norm[i].y > 0.f ? exp2_approx(norm[i].x - top) : 0.f;
    if (threadIdx.x < 32) weight[threadIdx.x + 32 * i] = scale;
    sum = fmaf(scale, norm[i].y, sum);
  }
#pragma unroll
  for (int w = 16; w >= 1; w /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, w);
  __syncthreads();

  const int column = threadIdx.x % columns, lane = threadIdx.x / columns;
  float out = 0.f;
  if (lane < lanes && column < dim) {
#pragma unroll 8
    for (int i = lane; i < results.splits; i += lanes) {
      out = fmaf(weight[i], results.values[(i * results.rows + row) * dim + column], out);
    }
  }
  partial[threadIdx.x] = out;
  __syncthreads();
  if (threadIdx.x >= dim) return;
  for (int i = 1; i < lanes; ++i) out += partial[i * columns + threadIdx.x];
  static_cast<T*>(p.y)[row * dim + threadIdx.x] = from_float<T>(t < len ? out / sum : 0.f);
}

bool whole_vectors(const CausalAttentionParams& p) {
  const auto whole = [](int64_t elements) { return elements % 8 == 0; };
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  return whole(p.key_dim) && whole(p.value_dim) && whole(p.query_stride) && whole(p.key_stride) &&
         whole(p.value_stride) && aligned(p.query) && aligned(p.key) && aligned(p.value) && aligned(p.past_key) &&
         aligned(p.past_value) && aligned(p.present_key) && aligned(p.present_value) && aligned(p.y);
}

int packed_rows(const CausalAttentionParams& p) { return p.length * (p.query_heads / p.kv_heads); }

Path choose_path(const CausalAttentionParams& p) {
  if (p.dtype == SEQEXPORT_FLOAT32 || !whole_vectors(p) || !causal_attention_has_tensor_cores() ||
      shared_memory_limit() < kTensorCoreBytes) {
    return Path::kSimt;
  }
  return packed_rows(p) <= kDecodeRows ? Path::kDecode : Path::kPrefill;
}

size_t split_bytes(const CausalAttentionParams& p) {
  return size_t(p.batch) * p.length * p.query_heads * (size_t(p.value_dim) * sizeof(float) + sizeof(float2));
}

int choose_splits(const CausalAttentionParams& p, Path path, size_t workspace_bytes) {
  if (path == Path::kPrefill) return 1;
  const int64_t blocks = int64_t(p.batch) * p.kv_heads * ceil_div(packed_rows(p), kPackedRows);
  const int64_t wanted = 2 * int64_t(device_attribute(cudaDevAttrMultiProcessorCount));
  const int64_t keys = std::min(p.capacity, p.window > 0 ? p.window + p.length : p.capacity);
  int64_t splits = p.splits > 0 ? p.splits : std::min(wanted / blocks, keys / kMinKeysPerSplit);
  splits = std::min<int64_t>({splits, kMaxSplits, int64_t(workspace_bytes / split_bytes(p))});
  return int(std::max<int64_t>(splits, 1));
}

cudaError_t copy_cache(const CausalAttentionParams& p, const void* past, void* present, int dim, cudaStream_t stream) {
  if (past == present) return cudaSuccess;
  const size_t bytes = size_t(p.batch) * p.kv_heads * p.capacity * dim * seqexport_element_bytes(p.dtype);
  return cudaMemcpyAsync(present, past, bytes, cudaMemcpyDeviceToDevice, stream);
}

cudaError_t combine(const CausalAttentionParams& p, const SplitResults& results, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(results.rows));
  return with_type(p.dtype, [&](auto zero) {
    return launch(combine_kernel<decltype(zero)>, grid, kCombineThreads, 0, stream, p, results);
  });
}

}  // namespace

size_t causal_attention_workspace(const CausalAttentionParams& p) {
  const int splits = std::max(choose_splits(p, choose_path(p), SIZE_MAX), choose_splits(p, Path::kSimt, SIZE_MAX));
  return splits > 1 ? splits * split_bytes(p) : 0;
}

cudaError_t causal_attention(const CausalAttentionParams& p, cudaStream_t stream) {
  if (p.dtype < SEQEXPORT_FLOAT32 || p.dtype > SEQEXPORT_BFLOAT16) return cudaErrorInvalidValue;
  cudaError_t e = copy_cache(p, p.past_key, p.present_key, p.key_dim, stream);
  if (e == cudaSuccess) e = copy_cache(p, p.past_value, p.present_value, p.value_dim, stream);
  if (e != cudaSuccess) return e;

  const Path path = choose_path(p);
  if (path == Path::kPrefill) return causal_attention_prefill(p, stream);
  SplitResults results;
  results.splits = choose_splits(p, path, p.workspace ? p.workspace_bytes : 0);
  results.rows = int64_t(p.batch) * p.length * p.query_heads;
  results.norms = static_cast<float2*>(p.workspace);
  results.values = reinterpret_cast<float*>(results.norms + results.splits * results.rows);
  e = path == Path::kDecode ? causal_attention_decode(p, results, stream) : causal_attention_simt(p, results, stream);
  if (e != cudaSuccess || results.splits == 1) return e;
  return combine(p, results, stream);
}

}  // namespace seqexport
