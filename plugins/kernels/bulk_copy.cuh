// Bulk copies of boxes of a tensor (tensor_map.h) to and from panels in shared memory, and the barriers on which those to
// it complete. One thread asks for a copy. Of sm_90a alone: to be called where kHasWgmma (wgmma.cuh) says so.
#pragma once

#include "async_copy.cuh"
#include "tensor_map.h"

namespace seqexport {

// In shared memory. A phase ends when all have arrived, and what bytes they said they expect have come.
struct BulkBarrier {
  uint64_t state;

  __device__ __forceinline__ void init(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  // Arrives, and expects copies of so many bytes.
  __device__ __forceinline__ void expect(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  // Until phase number `phase`, from 0 on, has ended.
  __device__ __forceinline__ void wait(int phase) {
    uint32_t done = 0;
    while (done == 0) {
      asm volatile(
          "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
          : "=r"(done)
          : "r"(shared_address(this)), "r"(phase & 1)
          : "memory");
    }
  }
};

// Begins the copy of a box of a tensor of four axes, from these places on.
__device__ __forceinline__ void bulk_load(void* shared, const CUtensorMap& from, BulkBarrier& barrier, int c0, int c1,
                                          int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, %5}], "
      "[%6];" ::"r"(shared_address(shared)),
      "l"(&from), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(shared_address(&barrier))
      : "memory");
}

// Begins a store; what other threads wrote there they have shown (show_to_async).
__device__ __forceinline__ void bulk_store(const CUtensorMap& to, const void* shared, int c0, int c1, int c2,
                                           int c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%1, %2, %3, %4}], [%5];" ::"l"(&to), "r"(c0),
               "r"(c1), "r"(c2), "r"(c3), "r"(shared_address(shared))
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until this thread's stores have read their shared memory.
__device__ __forceinline__ void bulk_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// What this thread wrote to shared memory is there for bulk copies and products that begin after the next barrier.
__device__ __forceinline__ void show_to_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace seqexport
