// Barriers in shared memory that count arrivals and bytes (sm_90): how a copy engine tells threads that a tile has come.
//
// A barrier's phase ends when all its arrivals and all bytes announced to it have come; a wait names the phase's parity.
// Compiled with PW_MAX_SPINS, a wait that never ends is a trap instead: for lab programs.
#pragma once

#include <cstdint>

namespace pw {

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// A stage of a ring and the parity of its present round. A producer starts with parity 1: nothing is to wait for.
template <int kStages>
struct RingPosition {
  int stage = 0;
  uint32_t parity;
  __device__ explicit RingPosition(uint32_t first_parity) : parity(first_parity) {}
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, int num_arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(num_arrivals) : "memory");
}

// After the last init and before any other thread or the copy engine uses a barrier.
__device__ __forceinline__ void mbarrier_init_done() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Arrives at the barrier in the same place of another block of the cluster, or of this one.
__device__ __forceinline__ void mbarrier_arrive_in_block(uint64_t* barrier, int block) {
  asm volatile(
      "{\n"
      ".reg .b32 address;\n"
      "mapa.shared::cluster.u32 address, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [address];\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(block)
      : "memory");
}

// Arrives, and announces bytes that copies will bring.
__device__ __forceinline__ void mbarrier_arrive_expecting(uint64_t* barrier, uint32_t num_bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(num_bytes)
               : "memory");
}

__device__ __forceinline__ bool mbarrier_has_passed(uint64_t* barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(passed)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return passed != 0;
}

__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
#ifdef PW_MAX_SPINS
  for (int64_t spins = 0; !mbarrier_has_passed(barrier, parity); ++spins) {
    if (spins > PW_MAX_SPINS) __trap();
  }
#else
  while (!mbarrier_has_passed(barrier, parity)) {
  }
#endif
}

#endif

}  // namespace pw
