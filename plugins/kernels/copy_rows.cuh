// Rows of elements from one place to another, in accesses of 16 bytes where both places are whole ones.
#pragma once

#include "vector.cuh"

namespace seqexport {

// `from` null: zeros. T is of the elements' size; nothing is computed.
template <typename T>
__device__ __forceinline__ void copy_row(const T* from, T* to, int count, bool vector) {
  if (vector) {
    constexpr int kSize = kVectorSize<T>;
    for (int i = threadIdx.x; i < count / kSize; i += blockDim.x) {
      reinterpret_cast<uint4*>(to)[i] = from ? reinterpret_cast<const uint4*>(from)[i] : make_uint4(0, 0, 0, 0);
    }
  } else {
    for (int i = threadIdx.x; i < count; i += blockDim.x) to[i] = from ? from[i] : T();
  }
}

}  // namespace seqexport
