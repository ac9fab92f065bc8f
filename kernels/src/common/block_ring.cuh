// A ring of stages in shared memory that belongs to a block (Hopper): one thread starts the copies from global memory, all
// threads wait for a stage. Knows nothing of what is copied.
#pragma once

#include "common/mbarrier.cuh"

namespace pw {

// Of one block. Turn `n` is in stage `n % num_stages`; every stage has a barrier.
class BlockRing {
 public:
  // The threads other than the first may use the barriers after the block's next __syncthreads.
  __device__ BlockRing(uint64_t* barriers, int num_stages) : barriers_(barriers), num_stages_(num_stages) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (threadIdx.x != 0) return;
    for (int stage = 0; stage < num_stages; ++stage) mbarrier_init(barriers + stage, 1);
    mbarrier_init_done();
#endif
  }

  __device__ int stage_of(int turn) const { return turn % num_stages_; }

  // Of one thread, once the turn that had the stage before was given back: how many bytes its copies will bring.
  __device__ void expect(int turn, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    mbarrier_arrive_expecting(barriers_ + stage_of(turn), uint32_t(bytes));
#endif
  }

  // Places and bytes are multiples of 16.
  __device__ void copy(int turn, void* to, const void* from, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barriers_ + stage_of(turn)))
                 : "memory");
#endif
  }

  // Of every thread: all that was announced has come.
  __device__ void wait(int turn) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    mbarrier_wait(barriers_ + stage_of(turn), uint32_t(turn / num_stages_ % 2));
#endif
  }

  // Of every thread: what it did with its turn's stage is done, also before the copies of another turn.
  __device__ void give_back() const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
    __syncthreads();
  }

 private:
  uint64_t* barriers_;
  int num_stages_;
};

}  // namespace pw
