// Attention of many query tokens on tensor cores, fp16 and bf16 (FlashAttention-2; Dao 2023,
// https://arxiv.org/abs/2307.08691).
//
// Parallelisation: a block takes kRows query tokens of one head and walks over the keys they see in tiles of kKeys,
// softmax online in registers. K of the next tile arrives while this tile's P V runs, V while Q K^T runs. The first
// head of each group writes the block's tokens to the cache from the tiles that it reads anyway.
// Floor: 2 * (Dh + Dv) multiply-adds per visible (query, key) on the tensor cores.
#include <algorithm>

#include "causal_attention_kernels.h"
#include "causal_attention_prefill_tile.cuh"
#include "launch.cuh"

namespace seqexport {
namespace {

// Blocks in the order they start: sections of kv heads whose keys and values fit in the L2 cache together, in each the
// tiles of query rows with the most keys first, heads fastest.
struct BlockOrder {
  int row_tiles, heads, section;  // query heads: batch * Hq; of a section, whole groups

  __device__ __forceinline__ void locate(int block, int& row_tile, int& head) const {
    const int first = block / (section * row_tiles) * section, size = min(section, heads - first);
    const int within = block - first * row_tiles;
    row_tile = row_tiles - 1 - within / size;
    head = first + within % size;
  }
};

template <typename Traits>
__global__ void __launch_bounds__(Traits::kThreads, Traits::kBlocks)
prefill_kernel(CausalAttentionParams p, BlockOrder order) {
  using T = typename Traits::T;
  constexpr int kKeys = Traits::kKeys, kWarpRows = Traits::kWarpRows;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  auto& shared = *reinterpret_cast<typename Traits::Shared*>(shared_bytes);
  int row_tile, batch_head;
  order.locate(blockIdx.x, row_tile, batch_head);
  const int t0 = row_tile * Traits::kRows, b = batch_head / p.query_heads, head = batch_head % p.query_heads;
  const int group = p.query_heads / p.kv_heads, row0 = threadIdx.x / 32 * kWarpRows;
  wait_for_previous_kernel();
  const KeyValueRows<T> rows(p, b, head / group);
  PrefillWarp<Traits> warp;

  if (t0 < rows.len) {
    const KeyRange keys(rows.past, t0, min(t0 + Traits::kRows, rows.len) - 1, p.window, 0, 1, kKeys);
    const int query0 = rows.past + t0 + row0;
    // This block's tokens and room for them in the cache.
    const int write_first = rows.past + t0, write_last = head % group == 0 ? min(keys.last, p.capacity) : 0;
    const T* query = static_cast<const T*>(p.query) + (int64_t(b) * p.length + t0) * p.query_stride + head * p.key_dim;
    copy_query<Traits>(shared, query, p.query_stride, rows.len - t0, p.key_dim);
    copy_keys<Traits>(shared.k, p, rows, keys.first);
    const ScoreScale scale(p);

    for (int k0 = keys.first; k0 < keys.last; k0 += kKeys) {
      const bool some_seen = k0 < query0 + kWarpRows && (p.window == 0 || k0 + kKeys - 1 > query0 - p.window);
      const bool writes = k0 + kKeys > write_first && k0 < write_last;
      copy_async_wait<0>();
      __syncthreads();
      copy_values<Traits>(shared.v, p, rows, k0);
      if (writes) {
        write_cache<Traits>(rows.present_key + int64_t(k0) * p.key_dim, p.key_dim, shared.k, write_first - k0,
                            write_last - k0);
      }
      if (some_seen) warp.multiply_keys(shared.q + row0, shared.k);
      copy_async_wait<0>();
      __syncthreads();
      if (k0 + kKeys < keys.last) copy_keys<Traits>(shared.k, p, rows, k0 + kKeys);
      if (some_seen) {
        if (scale.capped) warp.cap(scale);
        const bool all_seen = k0 + kKeys - 1 <= query0 && (p.window == 0 || k0 > query0 + kWarpRows - 1 - p.window);
        if (!all_seen) warp.mask(query0, k0, p.window);
        warp.softmax(scale.outer);
        warp.multiply_values(shared.v);
      }
      if (writes) {
        write_cache<Traits>(rows.present_value + int64_t(k0) * p.value_dim, p.value_dim, shared.v, write_first - k0,
                            write_last - k0);
      }
    }
  }
  const int64_t token = int64_t(b) * p.length + t0 + row0;
  T* y = static_cast<T*>(p.y) + (token * p.query_heads + head) * p.value_dim;
  warp.store(shared.q + row0, y, int64_t(p.query_heads) * p.value_dim, rows.len - t0 - row0, p.length - t0 - row0,
             p.value_dim);
}

template <typename T, int kDim>
cudaError_t launch_prefill(const CausalAttentionParams& p, cudaStream_t stream) {
  using Traits = PrefillTraits<T, kDim>;
  static_assert(sizeof(typename Traits::Shared) <= kTensorCoreBytes, "devices with less take the fp32 units");
  const int group = p.query_heads / p.kv_heads;
  const int64_t head_bytes = int64_t(std::max(p.capacity, p.length)) * (p.key_dim + p.value_dim) * sizeof(T);
  const int64_t fit = std::max<int64_t>(device_attribute(cudaDevAttrL2CacheSize) / 2 / head_bytes, 1);
  BlockOrder order;
  order.row_tiles = ceil_div(p.length, Traits::kRows);
  order.heads = p.batch * p.query_heads;
  order.section = int(std::min<int64_t>(fit * group, order.heads));
  return launch(prefill_kernel<Traits>, order.row_tiles * order.heads, Traits::kThreads,
                sizeof(typename Traits::Shared), stream, p, order);
}

template <typename T>
cudaError_t dispatch_dim(const CausalAttentionParams& p, cudaStream_t stream) {
  const int dim = p.key_dim > p.value_dim ? p.key_dim : p.value_dim;
  return dim <= 32   ? launch_prefill<T, 32>(p, stream)
         : dim <= 64 ? launch_prefill<T, 64>(p, stream)
         : dim <= 96 ? launch_prefill<T, 96>(p, stream)
         : dim <= 128 ? launch_prefill<T, 128>(p, stream)
                      : launch_prefill<T, 256>(p, stream);
}

}  // namespace

bool causal_attention_has_tensor_cores() {
  return compiled_architecture(prefill_kernel<PrefillTraits<Bfloat16, 64>>) >= 80;
}

cudaError_t causal_attention_prefill(const CausalAttentionParams& p, cudaStream_t stream) {
  return p.dtype == SEQEXPORT_FLOAT16 ? dispatch_dim<__half>(p, stream) : dispatch_dim<Bfloat16>(p, stream);
}

}  // namespace seqexport
