// In place of cuBLASLt: counts what is made of it, and multiplies nothing.
#include <atomic>
#include <cstdint>
#include <cstring>

extern "C" {

std::atomic<int> handles{0}, descriptors{0}, plans{0}, products{0};

int cublasLtCreate(void** handle) { return *handle = new char, ++handles, 0; }

int cublasLtMatmulDescCreate(void** made, int32_t, int32_t) { return *made = new char, ++descriptors, 0; }
int cublasLtMatmulDescDestroy(void* made) { return delete static_cast<char*>(made), --descriptors, 0; }
int cublasLtMatmulDescSetAttribute(void*, int32_t, const void*, size_t) { return 0; }

int cublasLtMatrixLayoutCreate(void** made, int32_t, uint64_t, uint64_t, int64_t) {
  return *made = new char, ++descriptors, 0;
}
int cublasLtMatrixLayoutDestroy(void* made) { return delete static_cast<char*>(made), --descriptors, 0; }

int cublasLtMatmulPreferenceCreate(void** made) { return *made = new char, 0; }
int cublasLtMatmulPreferenceSetAttribute(void*, int32_t, const void*, size_t) { return 0; }
int cublasLtMatmulPreferenceDestroy(void* made) { return delete static_cast<char*>(made), 0; }

int cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void*, int* found) {
  return *found = 1, ++plans, 0;
}

int cublasLtMatmul(void*, void*, const void*, const void*, void*, const void*, void*, const void*, const void*, void*,
                   void*, void*, const void*, void*, size_t, void*) {
  return ++products, 0;
}

}  // extern "C"
