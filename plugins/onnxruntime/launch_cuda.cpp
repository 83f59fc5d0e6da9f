// The library with CUDA: the same kernels as TensorRT's, on the provider's stream, workspace from the session's memory.
#include <cuda_runtime.h>

#include "launch_cpu.h"

namespace seqexport::ort {
namespace {

cudaStream_t stream_of(Call& call) {
  void* stream = nullptr;
  check(api().KernelContext_GetGPUComputeStream(call.context(), &stream));
  return static_cast<cudaStream_t>(stream);
}

void check_launched(Call& call, cudaError_t error) {
  if (error != cudaSuccess) {
    throw Refused(ORT_RUNTIME_EXCEPTION, call.name() + ": CUDA refused the launch: " + cudaGetErrorString(error));
  }
}

// Bytes of the provider's own allocator for one call. ONNX Runtime orders its memory by stream, so that giving it back
// when the launch is queued is in time.
class Workspace {
 public:
  Workspace(Call& call, size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    int device = 0;
    check_launched(call, cudaGetDevice(&device));
    OrtMemoryInfo* info = nullptr;
    check(api().CreateMemoryInfo("Cuda", OrtDeviceAllocator, device, OrtMemTypeDefault, &info));
    OrtStatus* status = api().KernelContext_GetAllocator(call.context(), info, &allocator_);
    api().ReleaseMemoryInfo(info);
    check(status);
    check(api().AllocatorAlloc(allocator_, bytes, &data_));
  }
  ~Workspace() {
    if (data_) release(api().AllocatorFree(allocator_, data_));
    if (allocator_) api().ReleaseAllocator(allocator_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

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

void launch(Call& call, Provider provider, const CausalConv1dParams& p) {
  if (provider == Provider::kCpu) return launch_cpu(call, p);
  check_launched(call, seqexport::causal_conv1d(p, stream_of(call)));
}

void launch(Call& call, Provider provider, SelectiveScanParams& p) {
  if (provider == Provider::kCpu) return launch_cpu(call, p);
  const Workspace workspace(call, seqexport::selective_scan_workspace(p));
  p.workspace = workspace.data();
  p.workspace_bytes = workspace.bytes();
  check_launched(call, seqexport::selective_scan(p, stream_of(call)));
}

void launch(Call& call, Provider provider, CausalAttentionParams& p) {
  if (provider == Provider::kCpu) return launch_cpu(call, p);
  const Workspace workspace(call, seqexport::causal_attention_workspace(p));
  p.workspace = workspace.data();
  p.workspace_bytes = workspace.bytes();
  check_launched(call, seqexport::causal_attention(p, stream_of(call)));
}

void launch(Call& call, Provider provider, const EmbeddingParams& p) {
  if (provider == Provider::kCpu) return launch_cpu(call, p);
  check_launched(call, seqexport::embedding(p, stream_of(call)));
}

void launch(Call& call, Provider provider, const LastTokenParams& p) {
  if (provider == Provider::kCpu) return launch_cpu(call, p);
  check_launched(call, seqexport::last_token(p, stream_of(call)));
}

void launch(Call& call, Provider provider, LinearParams& p) {
  if (provider == Provider::kCpu) return launch_cpu(call, p);
  const Workspace workspace(call, seqexport::linear_workspace(p));
  p.workspace = workspace.data();
  p.workspace_bytes = workspace.bytes();
  const cudaError_t error = seqexport::linear(p, stream_of(call));
  if (error == cudaErrorSharedObjectInitFailed) {
    throw Refused(ORT_RUNTIME_EXCEPTION, call.name() + ": " + seqexport::linear_fault());
  }
  check_launched(call, error);
}

void launch(Call& call, Provider provider, const RmsNormParams& p) {
  if (provider == Provider::kCpu) return launch_cpu(call, p);
  check_launched(call, seqexport::rms_norm(p, stream_of(call)));
}

void launch(Call& call, Provider provider, const RotaryEmbeddingParams& p) {
  if (provider == Provider::kCpu) return launch_cpu(call, p);
  check_launched(call, seqexport::rotary_embedding(p, stream_of(call)));
}

}  // namespace seqexport::ort
