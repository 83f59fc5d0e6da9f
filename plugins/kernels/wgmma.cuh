// Products of a warpgroup, four warps that start at a multiple of four: D[64,64] <- D + A[64,16] . B[16,64], of fp16 or
// bf16 with fp32 accumulation. Of sm_90a alone: to be called where kHasWgmma says so.
//
// Warp w has rows 16 w to 16 w + 15. With g = lane / 4, i = 2 * (lane % 4), a lane holds of them
//   A[4]: words (g, i) (g + 8, i) (g, i + 8) (g + 8, i + 8);  D[4 n ..]: (g, 8 n + i) (g, 8 n + i + 1), and of g + 8.
// Matrices in shared memory are panels of 64 columns: rows of 128 bytes one after another from a multiple of 1024 bytes
// on, the 16-byte parts of row r in the order of panel_offset.
#pragma once

#include "mma.cuh"

namespace seqexport {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kHasWgmma = true;
#else
constexpr bool kHasWgmma = false;
#endif

// Bytes from the beginning of a panel to part `part` (of 8 elements) of a row.
__device__ __forceinline__ uint32_t panel_offset(int row, int part) { return row * 128 + ((part ^ (row & 7)) << 4); }

// What wgmma takes for a panel from this address on, the lower half: 16-byte units, to which steps within the panel add.
// The upper half is SEQEXPORT_PANEL_KIND: 8 rows to 1024 bytes, swizzled by 128 bytes.
__device__ __forceinline__ uint32_t panel_descriptor(uint32_t shared) { return 1u << 16 | (shared & 0x3ffff) >> 4; }
#define SEQEXPORT_PANEL_KIND "0x40000040"

// Keeps the compiler from moving what uses or makes `registers` past here.
template <int kCount>
__device__ __forceinline__ void pin(float (&registers)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(registers[i])::"memory");
}

// Before the first product after registers of A or D were written.
__device__ __forceinline__ void wgmma_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until all products but those of the last kPending commits are done.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Four 8 x 8 matrices to shared memory, as load_matrix_x4 reads them, or transposed.
__device__ __forceinline__ void store_matrix_x4(uint32_t shared_row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared_row), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}
__device__ __forceinline__ void store_matrix_x4_transposed(uint32_t shared_row, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(shared_row), "r"(r[0]),
               "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// One wgmma instruction, whose D is %0 to %31 and scale-d the predicate p of the number %32.
#define SEQEXPORT_WGMMA(types, matrices, operands)                                                       \
  "{ .reg .pred p; .reg .b64 a, b; setp.ne.b32 p, %32, 0; " matrices                                     \
  " wgmma.mma_async.sync.aligned.m64n64k16.f32." types " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13," \
  "%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, " operands "; }"
#define SEQEXPORT_PANEL(name, half) "mov.b64 " name ", {" half ", " SEQEXPORT_PANEL_KIND "};"
#define SEQEXPORT_WGMMA_8(d, i)                                                                               \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define SEQEXPORT_WGMMA_D(d) \
  SEQEXPORT_WGMMA_8(d, 0), SEQEXPORT_WGMMA_8(d, 8), SEQEXPORT_WGMMA_8(d, 16), SEQEXPORT_WGMMA_8(d, 24)

// A's and B's rows of K are in shared memory: descriptors of A[64,K] and of B^T[64,K].
template <typename T>
__device__ __forceinline__ void wgmma(float (&d)[32], uint32_t a, uint32_t b, bool add) {
  if constexpr (std::is_same<T, __half>::value) {
    asm volatile(SEQEXPORT_WGMMA("f16.f16", SEQEXPORT_PANEL("a", "%33") SEQEXPORT_PANEL("b", "%34"), "a, b, p, 1, 1, 0, 0")
                 : SEQEXPORT_WGMMA_D(d)
                 : "r"(int(add)), "r"(a), "r"(b));
  } else {
    asm volatile(SEQEXPORT_WGMMA("bf16.bf16", SEQEXPORT_PANEL("a", "%33") SEQEXPORT_PANEL("b", "%34"), "a, b, p, 1, 1, 0, 0")
                 : SEQEXPORT_WGMMA_D(d)
                 : "r"(int(add)), "r"(a), "r"(b));
  }
}

// A is in registers; b is the descriptor of B^T[64,K], or with kRows of B[K,64].
template <typename T, bool kRows>
__device__ __forceinline__ void wgmma(float (&d)[32], const uint32_t (&a)[4], uint32_t b, bool add) {
  if constexpr (std::is_same<T, __half>::value) {
    asm volatile(SEQEXPORT_WGMMA("f16.f16", SEQEXPORT_PANEL("b", "%37"), "{%33,%34,%35,%36}, b, p, 1, 1, %38")
                 : SEQEXPORT_WGMMA_D(d)
                 : "r"(int(add)), "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(int(kRows)));
  } else {
    asm volatile(SEQEXPORT_WGMMA("bf16.bf16", SEQEXPORT_PANEL("b", "%37"), "{%33,%34,%35,%36}, b, p, 1, 1, %38")
                 : SEQEXPORT_WGMMA_D(d)
                 : "r"(int(add)), "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(int(kRows)));
  }
}

#undef SEQEXPORT_WGMMA
#undef SEQEXPORT_PANEL
#undef SEQEXPORT_PANEL_KIND
#undef SEQEXPORT_WGMMA_8
#undef SEQEXPORT_WGMMA_D

}  // namespace seqexport
