// The few calls of CUDA's runtime that sessions need: every return code checked, every resource owned.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

namespace seqexport::trt {

constexpr size_t kAlignment = 256;  // of the addresses that TensorRT takes

constexpr size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Throws UserError: the call, and CUDA's name and words for what went wrong.
void check(cudaError_t status, const char* call);

// Makes a GPU this thread's own while it lives. Throws BadArgument if there is no such GPU, UserError if there is none.
class OnDevice {
 public:
  explicit OnDevice(int device);
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice();

 private:
  int before_ = 0;
};

struct FreeDevice {
  void operator()(char* address) const { cudaFree(address); }
};
struct FreePinned {
  void operator()(char* address) const { cudaFreeHost(address); }
};
struct DestroyStream {
  void operator()(cudaStream_t stream) const { cudaStreamDestroy(stream); }
};
struct DestroyGraph {
  void operator()(cudaGraph_t graph) const { cudaGraphDestroy(graph); }
};
struct DestroyGraphExec {
  void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
};

using DeviceMemory = std::unique_ptr<char, FreeDevice>;
using PinnedMemory = std::unique_ptr<char, FreePinned>;  // of the host, page-locked
using Stream = std::unique_ptr<std::remove_pointer_t<cudaStream_t>, DestroyStream>;
using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraph_t>, DestroyGraph>;
using GraphExec = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraphExec>;

// Throw NoMemory where there is no room for so many bytes, with what is free.
DeviceMemory allocate_device(size_t bytes);
PinnedMemory allocate_pinned(size_t bytes);

// One on which nothing waits for the default stream.
Stream create_stream();

// Copies in the stream's order.
void copy_in(char* device, const char* host, size_t bytes, cudaStream_t stream);
void copy_out(char* host, const char* device, size_t bytes, cudaStream_t stream);
void copy_within(char* to, const char* from, size_t bytes, cudaStream_t stream);
void zero(char* device, size_t bytes, cudaStream_t stream);
// Waits until all that the stream was given is done.
void synchronize(cudaStream_t stream);

// 3.2 MiB
std::string size_text(size_t bytes);

}  // namespace seqexport::trt
