// When plans of cuBLASLt are made, and how many are kept: linear_cublas.cpp on a stub of it (cublaslt_stub.cpp), without
// CUDA's runtime. Prints what is wrong; the last line is "all cases ran".
#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "linear_cublas.h"

namespace {

std::atomic<bool> capturing{false};

#define EXPECT(condition) \
  if (!(condition)) std::printf("line %d: %s does not hold\n", __LINE__, #condition)

struct Stub {
  std::atomic<int>&handles, &descriptors, &plans, &products;
};

std::atomic<int>& counter(void* stub, const char* name) { return *static_cast<std::atomic<int>*>(dlsym(stub, name)); }

cudaError_t multiply(int rows) {
  alignas(256) static char memory[4][256];
  LinearParams p = {};
  p.dtype = SEQEXPORT_FLOAT16;
  p.rows = rows;
  p.in_features = p.out_features = 64;
  p.x = memory[0], p.weight = memory[1], p.y = memory[2];
  return seqexport::linear_cublas(p, nullptr);
}

}  // namespace

extern "C" cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
extern "C" cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

int main(int, char** arguments) {
  void* const library = dlopen(arguments[1], RTLD_NOW);
  if (!library) return std::printf("%s\n", dlerror()), 1;
  const Stub stub = {counter(library, "handles"), counter(library, "descriptors"), counter(library, "plans"),
                     counter(library, "products")};

  capturing = true;  // nothing is opened or planned while a graph is captured
  EXPECT(multiply(100) == cudaErrorStreamCaptureUnsupported);
  EXPECT(stub.handles == 0 && stub.plans == 0);
  capturing = false;
  EXPECT(multiply(100) == cudaSuccess && multiply(100) == cudaSuccess);
  EXPECT(stub.handles == 1 && stub.plans == 1 && stub.products == 2);
  capturing = true;  // what was planned before is captured
  EXPECT(multiply(100) == cudaSuccess && stub.products == 3);
  EXPECT(multiply(101) == cudaErrorStreamCaptureUnsupported && stub.plans == 1);
  capturing = false;

  const int of_a_plan = stub.descriptors;
  for (int rows = 200; rows < 1200; ++rows) {
    EXPECT(multiply(rows) == cudaSuccess);
    EXPECT(multiply(100) == cudaSuccess);  // used again and again, so it stays
  }
  EXPECT(stub.plans == 1001);
  EXPECT(stub.descriptors == 256 * of_a_plan);
  EXPECT(multiply(1199) == cudaSuccess && stub.plans == 1001);
  EXPECT(multiply(200) == cudaSuccess && stub.plans == 1002);  // was dropped long ago

  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([i] {
      for (int step = 0; step < 2000; ++step) EXPECT(multiply(1000 + (step * (i + 1)) % 700) == cudaSuccess);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT(stub.descriptors == 256 * of_a_plan);
  std::printf("all cases ran\n");
}
