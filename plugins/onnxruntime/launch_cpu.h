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

template <typename Params>
void run_on_cpu(Call& call, void (*kernel)(const Params&, const cpu::Pool&), const Params& p) {
  SessionPool threads(call.context());
  kernel(p, threads.pool());
  threads.check_ran();
}

inline void launch_cpu(Call& call, const CausalConv1dParams& p) { run_on_cpu(call, cpu::kernels().causal_conv1d, p); }
inline void launch_cpu(Call& call, const SelectiveScanParams& p) { run_on_cpu(call, cpu::kernels().selective_scan, p); }
inline void launch_cpu(Call& call, const CausalAttentionParams& p) {
  run_on_cpu(call, cpu::kernels().causal_attention, p);
}
inline void launch_cpu(Call& call, const EmbeddingParams& p) { run_on_cpu(call, cpu::kernels().embedding, p); }
inline void launch_cpu(Call& call, const LastTokenParams& p) { run_on_cpu(call, cpu::kernels().last_token, p); }
inline void launch_cpu(Call& call, const LinearParams& p) { run_on_cpu(call, cpu::kernels().linear, p); }
inline void launch_cpu(Call& call, const RmsNormParams& p) { run_on_cpu(call, cpu::kernels().rms_norm, p); }
inline void launch_cpu(Call& call, const RotaryEmbeddingParams& p) {
  run_on_cpu(call, cpu::kernels().rotary_embedding, p);
}

}  // namespace seqexport::ort
