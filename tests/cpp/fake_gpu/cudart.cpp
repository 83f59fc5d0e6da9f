#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "device.h"

namespace fake {
namespace {

constexpr uintptr_t kOfDevice = uintptr_t(1) << 50;  // beyond what the host can address

char* device_address(char* host) { return reinterpret_cast<char*>(reinterpret_cast<uintptr_t>(host) | kOfDevice); }

bool inside(const std::map<char*, size_t>& held, const char* address, size_t bytes) {
  auto next = held.upper_bound(const_cast<char*>(address));
  if (next == held.begin()) return false;
  const auto& [start, size] = *--next;
  return address + bytes <= start + size;
}

std::string variable(const char* name, const char* usual) {
  const char* const value = std::getenv(name);
  return value ? value : usual;
}

}  // namespace

void misuse(const char* what) {
  std::fprintf(stderr, "fake GPU: %s\n", what);
  std::_Exit(70);
}

Device& Device::get() {
  static Device device;
  return device;
}

Device::Device()
    : room(std::stoull(variable("FAKE_GPU_BYTES", "1073741824"))), fails_at(std::stoi(variable("FAKE_GPU_FAILS_AT", "0"))),
      count(std::stoi(variable("FAKE_GPU_COUNT", "1"))),
      refuses_capture(variable("FAKE_GPU_REFUSES", "") == "capture") {}

Device::~Device() {
  if (const char* report = std::getenv("FAKE_GPU_REPORT")) {
    FILE* const file = std::fopen(report, "w");
    std::fprintf(file, "{\"launches\": %zu, \"captures\": %zu, \"enqueued\": %zu, \"allocations\": %zu, \"peak\": %zu, "
                       "\"copies_within\": %zu}\n", launches, captures, enqueued, allocations, peak, copies_within);
    std::fclose(file);
  }
  if (!memory.empty() || !pinned.empty() || !streams.empty() || graphs) misuse("memory, streams or graphs are left");
}

char* Device::host(const void* device, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(device);
  char* const host = reinterpret_cast<char*>(address & ~kOfDevice);
  if (!(address & kOfDevice) || !inside(memory, host, bytes)) misuse("memory that is not the device's, or was freed");
  return host;
}

bool Device::is_pinned(const void* address, size_t bytes) const {
  return inside(pinned, static_cast<const char*>(address), bytes);
}

Stream& Device::at(cudaStream_t stream) {
  const auto found = streams.find(stream);
  if (found == streams.end()) misuse("no such stream");
  return *found->second;
}

void Device::submit(cudaStream_t stream, Work work) {
  Stream& to = at(stream);
  (to.recording ? to.recorded : to.queue).push_back(std::move(work));
}

void Device::finish(Stream& stream) {
  if (stream.recording) misuse("a stream that records is waited for");
  const std::vector<Work> queue = std::move(stream.queue);
  stream.queue.clear();
  for (const Work& work : queue) work();
}

}  // namespace fake

using fake::Device;

namespace {

thread_local int current = 0;

using Lock = std::lock_guard<std::recursive_mutex>;

cudaError_t taken(void** to, size_t bytes, std::map<char*, size_t>& held, bool of_device) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  if (of_device && bytes > device.room - device.used) return cudaErrorMemoryAllocation;
  char* const memory = static_cast<char*>(std::aligned_alloc(256, (bytes + 255) / 256 * 256));
  std::memset(memory, 0xA5, bytes);
  held[memory] = bytes;
  ++device.allocations;
  if (of_device) device.peak = std::max(device.peak, device.used += bytes);
  *to = of_device ? fake::device_address(memory) : memory;
  return cudaSuccess;
}

// As cudaFree does, waits for all that was given to the device.
cudaError_t freed(char* memory, std::map<char*, size_t>& held, bool of_device) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  for (auto& [handle, stream] : device.streams)
    if (!stream->recording) device.finish(*stream);
  const auto found = held.find(memory);
  if (found == held.end()) fake::misuse("memory is freed that was not taken");
  if (of_device) device.used -= found->second;
  held.erase(found);
  std::free(memory);
  return cudaSuccess;
}

}  // namespace

extern "C" {

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : error == cudaErrorNoDevice ? "cudaErrorNoDevice"
                                                                                                       : "cudaErrorFake";
}
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : error == cudaErrorNoDevice ? "no CUDA-capable device is detected"
                                                                                           : "a fake error";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return Device::get().count ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaSetDevice(int device) {
  current = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = Device::get().count;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, device ? "Fake GPU %d" : "Fake GPU", device);
  properties->major = 9;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** to, size_t bytes) { return taken(to, bytes, Device::get().memory, true); }
cudaError_t cudaHostAlloc(void** to, size_t bytes, unsigned) { return taken(to, bytes, Device::get().pinned, false); }
cudaError_t cudaFree(void* address) {
  return address ? freed(Device::get().host(address, 1), Device::get().memory, true) : cudaSuccess;
}
cudaError_t cudaFreeHost(void* address) {
  return address ? freed(static_cast<char*>(address), Device::get().pinned, false) : cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = Device::get().room - Device::get().used;
  *total = Device::get().room;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  auto made = std::make_unique<fake::Stream>();
  *stream = reinterpret_cast<cudaStream_t>(made.get());
  device.streams[*stream] = std::move(made);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  device.finish(device.at(stream));
  device.streams.erase(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  device.finish(device.at(stream));
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  device.host(to, bytes);
  device.submit(stream, [=, &device] { std::memset(device.host(to, bytes), value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_step, const void* from, size_t from_step, size_t width, size_t height,
                              cudaMemcpyKind kind, cudaStream_t stream) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  const auto at = [&device](const void* address, size_t bytes, bool of_device) {
    if (of_device) return device.host(address, bytes);
    if (!device.is_pinned(address, bytes)) fake::misuse("a copy in the stream's order needs page-locked memory");
    return static_cast<char*>(const_cast<void*>(address));
  };
  const size_t to_bytes = (height - 1) * to_step + width, from_bytes = (height - 1) * from_step + width;
  const bool to_device = kind != cudaMemcpyDeviceToHost, from_device = kind != cudaMemcpyHostToDevice;
  at(to, to_bytes, to_device), at(from, from_bytes, from_device);
  device.copies_within += to_device && from_device;
  device.submit(stream, [=] {
    char* const target = at(to, to_bytes, to_device);
    const char* const source = at(from, from_bytes, from_device);
    for (size_t row = 0; row < height; ++row) std::memcpy(target + row * to_step, source + row * from_step, width);
  });
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  device.at(stream).recording = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  fake::Stream& of = device.at(stream);
  of.recording = false;
  auto* const recorded = new std::vector<fake::Work>(std::move(of.recorded));
  of.recorded.clear();
  *graph = reinterpret_cast<cudaGraph_t>(recorded);
  ++device.graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  if (device.refuses_capture) return cudaErrorNotSupported;
  *made = reinterpret_cast<cudaGraphExec_t>(new std::vector<fake::Work>(*reinterpret_cast<std::vector<fake::Work>*>(graph)));
  ++device.graphs, ++device.captures;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<std::vector<fake::Work>*>(graph);
  const Lock lock(Device::get().mutex);
  --Device::get().graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  return cudaGraphDestroy(reinterpret_cast<cudaGraph_t>(graph));
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  Device& device = Device::get();
  const Lock lock(device.mutex);
  ++device.launches;
  for (const fake::Work& work : *reinterpret_cast<std::vector<fake::Work>*>(graph)) device.submit(stream, work);
  return cudaSuccess;
}

}  // extern "C"
