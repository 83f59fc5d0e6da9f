#include "cuda.h"

#include <algorithm>
#include <cstdio>

#include "error.h"

namespace seqexport::trt {
namespace {

template <class Owner>
Owner allocated(cudaError_t status, void* address, const char* call, const char* what, size_t bytes, bool of_device) {
  if (status != cudaErrorMemoryAllocation) {
    check(status, call);
    return Owner(static_cast<char*>(address));
  }
  cudaGetLastError();
  size_t free = 0, all = 0;
  const bool known = of_device && cudaMemGetInfo(&free, &all) == cudaSuccess;
  throw NoMemory(std::string(what) + ": wanted " + size_text(bytes) + (known ? ", free " + size_text(free) : "") +
                 "; use a smaller batch or capacity, close other sessions, or free the GPU");
}

}  // namespace

void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  const std::string told = std::string("CUDA failed in ") + call + ": " + cudaGetErrorName(status) + " (" +
                           cudaGetErrorString(status) + ")";
  if (status == cudaErrorMemoryAllocation)
    throw NoMemory(told + "; use a smaller batch or capacity, close other sessions, or free the GPU");
  throw UserError(told);
}

OnDevice::OnDevice(int device) {
  int count = 0;
  const cudaError_t status = cudaGetDevice(&before_);
  if (status != cudaSuccess) {
    cudaGetLastError();
    throw UserError(std::string("no CUDA device (") + cudaGetErrorString(status) +
                    "): TensorRT runs on an NVIDIA GPU; check nvidia-smi, on Jetson the user's group video");
  }
  if (before_ == device) return;
  check(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
  if (device < 0 || device >= count)
    throw BadArgument("device " + std::to_string(device) + ": expected 0 to " + std::to_string(count - 1) +
                      ", the GPUs that CUDA has here");
  check(cudaSetDevice(device), "cudaSetDevice");
}

OnDevice::~OnDevice() {
  int now = before_;
  if (cudaGetDevice(&now) == cudaSuccess && now != before_) cudaSetDevice(before_);
}

DeviceMemory allocate_device(size_t bytes) {
  void* address = nullptr;
  const cudaError_t status = cudaMalloc(&address, std::max<size_t>(bytes, 1));
  return allocated<DeviceMemory>(status, address, "cudaMalloc", "device memory", bytes, true);
}

PinnedMemory allocate_pinned(size_t bytes) {
  void* address = nullptr;
  const cudaError_t status = cudaHostAlloc(&address, std::max<size_t>(bytes, 1), cudaHostAllocPortable);
  return allocated<PinnedMemory>(status, address, "cudaHostAlloc", "page-locked host memory", bytes, false);
}

Stream create_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return Stream(stream);
}

void copy_in(char* device, const char* host, size_t bytes, cudaStream_t stream) {
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
}

void copy_out(char* host, const char* device, size_t bytes, cudaStream_t stream) {
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream), "cudaMemcpyAsync");
}

void copy_within(char* to, const char* from, size_t bytes, cudaStream_t stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream), "cudaMemcpyAsync");
}

void zero(char* device, size_t bytes, cudaStream_t stream) {
  if (bytes) check(cudaMemsetAsync(device, 0, bytes, stream), "cudaMemsetAsync");
}

void synchronize(cudaStream_t stream) { check(cudaStreamSynchronize(stream), "cudaStreamSynchronize"); }

std::string size_text(size_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = double(bytes);
  size_t unit = 0;
  for (; value >= 1023.95 && unit < 4; ++unit) value /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
  return text;
}

}  // namespace seqexport::trt
