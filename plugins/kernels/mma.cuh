// Tensor-core fragments for fp16 and bf16, fp32 accumulation (sm_80 and later).
//
// One m16n8k16 product per warp. With g = lane / 4, i = 2 * (lane % 4), a lane holds
//   A[4]: words (g, i) (g + 8, i) (g, i + 8) (g + 8, i + 8);  B[2]: words (k = i, n = g) (i + 8, g);
//   C[4]: (g, i) (g, i + 1) (g + 8, i) (g + 8, i + 1).
#pragma once

#include <type_traits>

#include "async_copy.cuh"
#include "numeric.cuh"

namespace seqexport {

__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], uint32_t shared_row) {
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_row));
#endif
}
__device__ __forceinline__ void load_matrix_x4(uint32_t (&r)[4], const void* row) {
  load_matrix_x4(r, shared_address(row));
}

__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&r)[4], uint32_t shared_row) {
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_row));
#endif
}
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  load_matrix_x4_transposed(r, shared_address(row));
}

template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void mma<__half>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
template <>
__device__ __forceinline__ void mma<Bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Adds to every column of C the sums of A's rows.
template <typename T>
__device__ __forceinline__ void mma_row_sums(float (&c)[4], const uint32_t (&a)[4]) {
  constexpr uint32_t kOnes = std::is_same<T, __half>::value ? 0x3c003c00u : 0x3f803f80u;
  mma<T>(c, a, kOnes, kOnes);
}

}  // namespace seqexport
