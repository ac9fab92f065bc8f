// A ring of stages in shared memory that belongs to one warp: the warp itself starts the copies from global memory, waits
// for the oldest, and reuses it, so that no two warps ever wait for each other. Knows nothing of what is copied.
//
// Use: `fetch` STAGES times; then, again and again, `wait`, read the stage, `fetch`. On Hopper a fetch is one bulk copy that
// reports to an mbarrier; before Hopper every lane copies 16 bytes at a time. A fetch of no bytes takes its turn as well.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "common/mbarrier.cuh"

namespace pw {

template <int STAGES>
class WarpRing {
 public:
  // Both in shared memory and of this warp alone: `stages` is [STAGES][stage_bytes], aligned to 16 bytes, and `barriers`
  // is [STAGES]. All lanes construct.
  __device__ WarpRing(uint8_t* stages, int stage_bytes, uint64_t* barriers)
      : stages_(stages), stage_bytes_(stage_bytes), barriers_(barriers) {
#if __CUDA_ARCH__ >= 900
    if (lane() == 0) {
      for (int i = 0; i < STAGES; ++i) mbarrier_init(barriers_ + i, 1);
      mbarrier_init_done();
    }
    __syncwarp();
#endif
  }

  // Starts to copy `bytes`, a multiple of 16, from an address that is too. All lanes call it, after all have read what
  // the stage held.
  __device__ void fetch(const uint8_t* from, int bytes) {
    __syncwarp();
#if __CUDA_ARCH__ >= 900
    if (lane() == 0 && bytes > 0) {
      mbarrier_arrive_expecting(barriers_ + tail_, uint32_t(bytes));
      asm volatile(
          "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
              shared_address(stages_ + tail_ * stage_bytes_)),
          "l"(from), "r"(bytes), "r"(shared_address(barriers_ + tail_))
          : "memory");
    }
#else
    for (int at = lane() * 16; at < bytes; at += 32 * 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(stages_ + tail_ * stage_bytes_ + at)),
                   "l"(from + at)
                   : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    tail_ = tail_ + 1 == STAGES ? 0 : tail_ + 1;
  }

  // The oldest stage, once it has arrived. Not for a stage that was fetched without bytes.
  __device__ const uint8_t* wait() {
    const uint8_t* stage = stages_ + head_ * stage_bytes_;
#if __CUDA_ARCH__ >= 900
    mbarrier_wait(barriers_ + head_, phase_);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
    __syncwarp();
#endif
    head_ = head_ + 1 == STAGES ? 0 : head_ + 1;
    phase_ ^= head_ == 0;
    return stage;
  }

 private:
  static __device__ int lane() { return threadIdx.x % 32; }

  uint8_t* stages_;
  int stage_bytes_;
  uint64_t* barriers_;
  int head_ = 0;
  int tail_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace pw
