// A GPU in this machine's memory, behind CUDA's and TensorRT's names.
//
// Device addresses are no addresses of the host: what reads one ends with a signal. What a stream is given runs as late as
// a GPU may run it: when the host waits for that stream, with what the memory holds by then. Memory begins as garbage.
// What a program may not do ends it with a line on stderr. What is left when it exits does too.
//
// FAKE_GPU_COUNT, FAKE_GPU_BYTES: the GPUs, and memory of one. FAKE_GPU_REFUSES=capture: no graph is made.
// FAKE_GPU_FAILS_AT=n: the n-th enqueue, counted from 1, is refused. FAKE_GPU_REPORT=FILE: counts, as JSON, at the end.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <vector>

namespace fake {

using Work = std::function<void()>;

// Ends the program: it did what no GPU allows.
[[noreturn]] void misuse(const char* what);

struct Stream {
  std::vector<Work> queue, recorded;
  bool recording = false;
};

struct Device {
  static Device& get();

  // The host's address of `bytes` of device memory, all of them in one allocation.
  char* host(const void* device, size_t bytes);
  void submit(cudaStream_t stream, Work work);
  void finish(Stream& stream);
  Stream& at(cudaStream_t stream);
  bool is_pinned(const void* address, size_t bytes) const;

  std::recursive_mutex mutex;
  std::map<char*, size_t> memory, pinned;
  std::map<cudaStream_t, std::unique_ptr<Stream>> streams;
  size_t room = size_t(1) << 30, used = 0, peak = 0, graphs = 0;
  size_t launches = 0, captures = 0, enqueued = 0, allocations = 0, copies_within = 0;
  int fails_at = 0, count = 1;
  bool refuses_capture = false;

 private:
  Device();
  ~Device();
};

}  // namespace fake
