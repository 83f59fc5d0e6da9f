// V neighbouring elements as floats, in accesses of 16 bytes where they are whole ones, and sums over a warp.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <type_traits>

#include "numeric.cuh"

namespace seqexport {

template <typename T>
constexpr int kVectorSize = 16 / int(sizeof(T));

__device__ __forceinline__ void unpack_vector(const uint4& raw, float (&values)[4], const float*) {
  values[0] = __uint_as_float(raw.x), values[1] = __uint_as_float(raw.y);
  values[2] = __uint_as_float(raw.z), values[3] = __uint_as_float(raw.w);
}
template <typename T>
__device__ __forceinline__ void unpack_vector(const uint4& raw, float (&values)[8], const T*) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack_pair<T>(words[i]);
    values[2 * i] = pair.x, values[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ uint4 pack_vector(const float* values, const float*) {
  return {__float_as_uint(values[0]), __float_as_uint(values[1]), __float_as_uint(values[2]),
          __float_as_uint(values[3])};
}
template <typename T>
__device__ __forceinline__ uint4 pack_vector(const float* values, const T*) {
  return {pack_pair<T>(values[0], values[1]), pack_pair<T>(values[2], values[3]), pack_pair<T>(values[4], values[5]),
          pack_pair<T>(values[6], values[7])};
}

template <typename T, int V>
__device__ __forceinline__ void load_vector(const T* p, float (&values)[V]) {
  if constexpr (V == 1) {
    values[0] = to_float(*p);
  } else if constexpr (V == 2) {
    const float2 pair = load_pair(p);
    values[0] = pair.x, values[1] = pair.y;
  } else {
    constexpr int kSize = kVectorSize<T>;
#pragma unroll
    for (int i = 0; i < V / kSize; ++i) {
      float part[kSize];
      unpack_vector(reinterpret_cast<const uint4*>(p)[i], part, p);
#pragma unroll
      for (int k = 0; k < kSize; ++k) values[i * kSize + k] = part[k];
    }
  }
}

template <typename T, int V>
__device__ __forceinline__ void store_vector(T* p, const float (&values)[V]) {
  if constexpr (V == 1) {
    *p = from_float<T>(values[0]);
  } else if constexpr (V == 2) {
    store_pair(p, values[0], values[1]);
  } else {
    constexpr int kSize = kVectorSize<T>;
#pragma unroll
    for (int i = 0; i < V / kSize; ++i) reinterpret_cast<uint4*>(p)[i] = pack_vector(values + i * kSize, p);
  }
}

// V elements as they lie in memory: loaded, and not waited for before they are unpacked.
template <typename T, int V>
struct Raw {
  std::conditional_t<V == 1, T, uint4> parts[V == 1 ? 1 : V / kVectorSize<T>];

  __device__ __forceinline__ void load(const T* p) { *this = *reinterpret_cast<const Raw*>(p); }

  // What is read once, so that it leaves the L1 cache to the rest.
  __device__ __forceinline__ void stream(const T* p) {
    if constexpr (V == 1) {
      parts[0] = *p;
    } else {
#pragma unroll
      for (int i = 0; i < V / kVectorSize<T>; ++i) {
        asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
            : "=r"(parts[i].x), "=r"(parts[i].y), "=r"(parts[i].z), "=r"(parts[i].w)
            : "l"(reinterpret_cast<const uint4*>(p) + i));
      }
    }
  }
  __device__ __forceinline__ void unpack(float (&values)[V]) const {
    load_vector(reinterpret_cast<const T*>(parts), values);
  }
};

inline bool is_aligned_to_vectors(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Whether rows of `count` elements, one after another from each of `tensors` on, begin and end at 16 bytes.
inline bool rows_are_vectors(int count, int element_bytes, std::initializer_list<const void*> tensors) {
  return int64_t(count) * element_bytes % 16 == 0 &&
         std::all_of(tensors.begin(), tensors.end(), is_aligned_to_vectors);
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) v += __shfl_xor_sync(0xffffffffu, v, lanes);
  return v;
}

}  // namespace seqexport
