// y[b] = x[b, clamp(seq_lens[b], 1, L) - 1]: a block a row. Floor: the latency of a launch.
#include "last_token.h"

#include "copy_rows.cuh"
#include "launch.cuh"

namespace seqexport {
namespace {

constexpr int kThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kThreads) last_token_kernel(LastTokenParams p, bool vector) {
  wait_for_previous_kernel();
  const int b = blockIdx.x, last = min(max(p.seq_lens[b], 1), p.length) - 1;
  copy_row(static_cast<const T*>(p.x) + (int64_t(b) * p.length + last) * p.channels,
           static_cast<T*>(p.y) + int64_t(b) * p.channels, p.channels, vector);
}

template <typename T>
cudaError_t launch_last_token(const LastTokenParams& p, cudaStream_t stream) {
  const bool vector = rows_are_vectors(p.channels, sizeof(T), {p.x, p.y});
  return launch(last_token_kernel<T>, unsigned(p.batch), kThreads, 0, stream, p, vector);
}

}  // namespace

cudaError_t last_token(const LastTokenParams& p, cudaStream_t stream) {
  return p.dtype == SEQEXPORT_FLOAT32 ? launch_last_token<uint32_t>(p, stream) : launch_last_token<uint16_t>(p, stream);
}

}  // namespace seqexport
