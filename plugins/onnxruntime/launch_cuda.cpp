// The library with CUDA: the same kernels as TensorRT's, on the provider's stream, workspace from the session's memory.
#include <cuda_runtime.h>

#include "launch.h"

namespace seqexport::ort {
namespace {

void check_launched(const Op& op, int error) {
  if (error) throw Refused(ORT_RUNTIME_EXCEPTION, std::string(op.name) + ": " + launch_fault(error));
}

// Bytes of the provider's own allocator for one call. ONNX Runtime orders its memory by stream, so that giving it back
// when the launch is queued is in time.
class SessionMemory {
 public:
  SessionMemory(const Op& op, OrtKernelContext* context, size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    int device = 0;
    check_launched(op, cudaGetDevice(&device));
    OrtMemoryInfo* info = nullptr;
    check(api().CreateMemoryInfo("Cuda", OrtDeviceAllocator, device, OrtMemTypeDefault, &info));
    OrtStatus* status = api().KernelContext_GetAllocator(context, info, &allocator_);
    api().ReleaseMemoryInfo(info);
    check(status);
    check(api().AllocatorAlloc(allocator_, bytes, &data_));
  }
  ~SessionMemory() {
    if (data_) release(api().AllocatorFree(allocator_, data_));
    if (allocator_) api().ReleaseAllocator(allocator_);
  }
  SessionMemory(const SessionMemory&) = delete;
  SessionMemory& operator=(const SessionMemory&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  static void release(OrtStatus* status) {
    if (status) api().ReleaseStatus(status);
  }

  size_t bytes_;
  void* data_ = nullptr;
  OrtAllocator* allocator_ = nullptr;
};

}  // namespace

void launch(const Op& op, Device device, OrtKernelContext* context, void* params) {
  if (device == Device::kCpu) return launch_on_cpu(op, context, params);
  void* stream = nullptr;
  check(api().KernelContext_GetGPUComputeStream(context, &stream));
  const SessionMemory memory(op, context, op.workspace.wanted ? op.workspace.wanted(params) : 0);
  if (op.workspace.data) {
    op.workspace.data.of<void*>(params) = memory.data();
    op.workspace.bytes.of<size_t>(params) = memory.bytes();
  }
  check_launched(op, op.launch(params, stream));
}

}  // namespace seqexport::ort
