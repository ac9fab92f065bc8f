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

// These take a barrier's shared address; the same for pointers follow below.
__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives at the barrier in the same place of another block of the cluster, or of this one. What this thread wrote to memory
// is not thereby seen there: ordering a whole cluster's writes takes longer than a tile's products.
__device__ __forceinline__ void mbarrier_arrive_in_block(uint32_t barrier, int block) {
  asm volatile(
      "{\n"
      ".reg .b32 address;\n"
      "mapa.shared::cluster.u32 address, %0, %1;\n"
      "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [address];\n"
      "}" ::"r"(barrier),
      "r"(block)
      : "memory");
}

// Arrives, and announces bytes that copies will bring.
__device__ __forceinline__ void mbarrier_arrive_expecting(uint32_t barrier, uint32_t num_bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(num_bytes) : "memory");
}

__device__ __forceinline__ bool mbarrier_has_passed(uint32_t barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(passed)
      : "r"(barrier), "r"(parity)
      : "memory");
  return passed != 0;
}

__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
#ifdef PW_MAX_SPINS
  for (int64_t spins = 0; !mbarrier_has_passed(barrier, parity); ++spins) {
    if (spins > PW_MAX_SPINS) __trap();
  }
#else
  while (!mbarrier_has_passed(barrier, parity)) {
  }
#endif
}

__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier) { mbarrier_arrive(shared_address(barrier)); }
__device__ __forceinline__ void mbarrier_arrive_expecting(uint64_t* barrier, uint32_t num_bytes) {
  mbarrier_arrive_expecting(shared_address(barrier), num_bytes);
}
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  mbarrier_wait(shared_address(barrier), parity);
}

#endif

}  // namespace pw
