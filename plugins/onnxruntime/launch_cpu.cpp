// The CPU kernels on the thread pool of the session that a call belongs to.
#include <utility>

#include "kernels.h"
#include "launch.h"

namespace seqexport::ort {
namespace {

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

}  // namespace

void launch_on_cpu(const Op& op, OrtKernelContext* context, const void* params) {
  SessionPool threads(context);
  cpu::kernel(size_t(&op - ops().data()))(params, threads.pool());
  threads.check_ran();
}

#ifndef SEQEXPORT_CUDA
void launch(const Op& op, Device, OrtKernelContext* context, void* params) { launch_on_cpu(op, context, params); }
#endif

}  // namespace seqexport::ort
