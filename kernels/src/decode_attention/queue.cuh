// Which units a block takes: first the one of its own number, then whatever is next when it asks.
//
// In order, so that units which are worked on at the same time lie near each other in memory; and asked for, so that a
// slower block takes fewer.
#pragma once

namespace pw::decode_attention {

// Numbers from the number of units on stand for none.
class UnitQueue {
 public:
  // `taken` counts what was asked for; it is zero before a launch and after.
  __device__ UnitQueue(int* taken, int num_units) : taken_(taken), num_units_(num_units) {}

  __device__ int first() const { return int(blockIdx.x); }

  // The others, one after the other. One thread of a block asks, until there is none.
  __device__ int take() const {
    const int num_blocks = int(gridDim.x);
    if (num_units_ <= num_blocks) return num_units_;
    const int taken = atomicAdd(taken_, 1);
    // Each block asks once in vain, so there are as many questions as units, and this was the last one.
    if (taken == num_units_ - 1) *taken_ = 0;
    return num_blocks + taken;
  }

 private:
  int* taken_;
  int num_units_;
};

}  // namespace pw::decode_attention
