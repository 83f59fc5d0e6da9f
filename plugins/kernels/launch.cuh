// Kernel launches. A kernel may start while the one before it in the stream drains (programmatic dependent launch, on
// sm_90 and later, from CUDA 12.3 on, where graphs can capture it; SEQEXPORT_PDL=0 turns it off). Every kernel calls wait_for_previous_kernel() in
// each block. Before that it writes nothing, and reads nothing but what is older than the kernel before it: where that
// one is of ours, it has waited, and so everything that earlier ones wrote is there. Anything may be brought into the L2
// cache.
#pragma once

#include <cuda_runtime.h>

#include <cstdlib>
#include <cstring>

namespace seqexport {

__device__ __forceinline__ void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ void prefetch_to_l2(const void* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

// The registers of each thread from here on, called by all threads of a warpgroup: raised to what others have given, or
// lowered (sm_90a; elsewhere nothing happens).
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
#endif
}

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

// Bytes of shared memory that a block may have on this device; SEQEXPORT_SHARED_MEMORY lowers it, as a smaller device
// would, so that its kernels can be tested on a larger one.
inline size_t shared_memory_limit() {
  static const char* const lowered = std::getenv("SEQEXPORT_SHARED_MEMORY");
  const size_t limit = size_t(device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
  const size_t asked = lowered ? std::strtoull(lowered, nullptr, 10) : limit;
  return asked < limit ? asked : limit;
}

// Whether kernels may start while the one before drains: this driver can, and nobody turned it off.
inline bool launches_may_overlap() {
  static const bool may = [] {
    const char* asked = std::getenv("SEQEXPORT_PDL");
    int driver = 0;
    return !(asked && std::strcmp(asked, "0") == 0) && cudaDriverGetVersion(&driver) == cudaSuccess && driver >= 12030;
  }();
  return may;
}

// The virtual architecture a kernel was compiled for, 10 * major + minor: less than the device's where PTX of an older
// one runs.
template <typename K>
int compiled_architecture(K kernel) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess ? attributes.ptxVersion : 0;
}

// The threads of a block that a kernel was compiled for (its launch bounds), which may differ between architectures.
template <typename K>
int compiled_threads(K kernel) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess ? attributes.maxThreadsPerBlock : 0;
}

template <typename K>
cudaError_t allow_shared_memory(K kernel, size_t bytes) {
  if (bytes <= 48 * 1024) return cudaSuccess;
  if (bytes > shared_memory_limit()) return cudaErrorInvalidConfiguration;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
}

template <typename... P, typename... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 threads, size_t shared_bytes, cudaStream_t stream, A... args) {
  const cudaError_t e = allow_shared_memory(kernel, shared_bytes);
  if (e != cudaSuccess) return e;
#if CUDART_VERSION >= 12030
  if (launches_may_overlap() && compiled_architecture(kernel) >= 90) {
    cudaLaunchAttribute overlap;
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
  }
#endif
  kernel<<<grid, threads, shared_bytes, stream>>>(args...);
  return cudaGetLastError();
}

}  // namespace seqexport
