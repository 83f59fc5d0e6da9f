// The CPU kernels on the thread pool of the session that a call belongs to.
#pragma once

#include <utility>

#include "launch.h"

namespace seqexport::ort {

// A status of ONNX Runtime's own pool cannot leave the kernel that waits for it; it is thrown here afterwards.
class SessionPool {
 public:
  explicit SessionPool(OrtKernelContext* context) : context_(context) {}
  ~SessionPool() {
    if (failed_) api().ReleaseStatus(failed_);
  }
  SessionPool(const SessionPool&) = delete;
  SessionPool& operator=(const SessionPool&) = delete;

  cpu::Pool pool() { return {run, this}; }
  void check_ran() { check(std::exchange(failed_, nullptr)); }

 private:
  static void run(void* self, size_t count, void (*task)(void*, size_t), void* data) {
    auto& pool = *static_cast<SessionPool*>(self);
    if (pool.failed_ == nullptr) pool.failed_ = api().KernelContext_ParallelFor(pool.context_, task, count, 0, data);
  }

  OrtKernelContext* context_;
  OrtStatus* failed_ = nullptr;
};

inline void launch_cpu(Call& call, const CausalConv1dParams& p) {
  SessionPool threads(call.context());
  cpu::kernels().causal_conv1d(p, threads.pool());
  threads.check_ran();
}

inline void launch_cpu(Call& call, const SelectiveScanParams& p) {
  SessionPool threads(call.context());
  cpu::kernels().selective_scan(p, threads.pool());
  threads.check_ran();
}

inline void launch_cpu(Call& call, const CausalAttentionParams& p) {
  SessionPool threads(call.context());
  cpu::kernels().causal_attention(p, threads.pool());
  threads.check_ran();
}

inline void launch_cpu(Call& call, const EmbeddingParams& p) {
  SessionPool threads(call.context());
  cpu::kernels().embedding(p, threads.pool());
  threads.check_ran();
}

inline void launch_cpu(Call& call, const LastTokenParams& p) {
  SessionPool threads(call.context());
  cpu::kernels().last_token(p, threads.pool());
  threads.check_ran();
}

inline void launch_cpu(Call& call, const LinearParams& p) {
  SessionPool threads(call.context());
  cpu::kernels().linear(p, threads.pool());
  threads.check_ran();
}

inline void launch_cpu(Call& call, const RmsNormParams& p) {
  SessionPool threads(call.context());
  cpu::kernels().rms_norm(p, threads.pool());
  threads.check_ran();
}

inline void launch_cpu(Call& call, const RotaryEmbeddingParams& p) {
  SessionPool threads(call.context());
  cpu::kernels().rotary_embedding(p, threads.pool());
  threads.check_ran();
}

}  // namespace seqexport::ort
