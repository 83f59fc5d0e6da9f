// Descriptors of tensors of 2-byte elements for the bulk copies of sm_90 and later (bulk_copy.cuh).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if CUDART_VERSION >= 12000
#include <cuda.h>
#define SEQEXPORT_GRID_CONSTANT __grid_constant__
#else
struct alignas(64) CUtensorMap {
  uint64_t opaque[16];
};
#define SEQEXPORT_GRID_CONSTANT
#endif

namespace seqexport {

// Of T[..,dims[1],dims[0]], fp16 or bf16, whose strides count elements; copies take boxes of such sizes, 64 wide, swizzled
// by 128 bytes. What lies outside reads as 0 and is not written. False where this driver has no such
// copies, or takes no such tensor.
template <int kRank>
bool make_tensor_map(CUtensorMap& map, bool half, const void* base, const int64_t (&dims)[kRank],
                     const int64_t (&strides)[kRank - 1], const int (&box)[kRank]) {
#if CUDART_VERSION >= 12000
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    return result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(found) : nullptr;
  }();
  if (encode == nullptr) return false;
  cuuint64_t size[kRank], bytes[kRank - 1];
  cuuint32_t sizes[kRank], step[kRank];
  for (int i = 0; i < kRank; ++i) {
    size[i] = cuuint64_t(dims[i]), sizes[i] = cuuint32_t(box[i]), step[i] = 1;
    if (i + 1 < kRank) bytes[i] = cuuint64_t(strides[i]) * 2;
  }
  return encode(&map, half ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank,
                const_cast<void*>(base), size, bytes, sizes, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
#else
  return false;
#endif
}

}  // namespace seqexport
