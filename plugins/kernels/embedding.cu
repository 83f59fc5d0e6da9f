// y[b,t] = weight[ids[b,t]]: a block a token. Floor: device memory, y written once.
#include "embedding.h"

#include "copy_rows.cuh"
#include "launch.cuh"

namespace seqexport {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kThreads) embedding_kernel(EmbeddingParams p, bool vector) {
  wait_for_previous_kernel();
  const int id = p.ids[blockIdx.x];
  const bool is_inside = id >= 0 && id < p.vocab;
  const T* row = is_inside ? static_cast<const T*>(p.weight) + int64_t(id) * p.channels : nullptr;
  copy_row(row, static_cast<T*>(p.y) + int64_t(blockIdx.x) * p.channels, p.channels, vector);
}

template <typename T>
cudaError_t launch_embedding(const EmbeddingParams& p, cudaStream_t stream) {
  const bool vector = rows_are_vectors(p.channels, sizeof(T), {p.weight, p.y});
  return launch(embedding_kernel<T>, unsigned(p.rows), kThreads, 0, stream, p, vector);
}

}  // namespace

cudaError_t embedding(const EmbeddingParams& p, cudaStream_t stream) {
  return p.dtype == SEQEXPORT_FLOAT32 ? launch_embedding<uint32_t>(p, stream) : launch_embedding<uint16_t>(p, stream);
}

}  // namespace seqexport
