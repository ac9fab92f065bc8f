// The blocks that work on one row, and what they tell each other. Knows no logits.
#pragma once

#include "common/cluster.cuh"
#include "sampling/config.cuh"

namespace pw::sampling {

constexpr int kMailWords = 3;

// Words from every block of the team. Two turns alternate: whoever writes the next but one has passed the barrier of the
// next, so nobody reads this one any more.
struct Mail {
  uint64_t words[2][kMaxTeam][kMailWords];
};

class Team {
 public:
  // The others may not have started: nothing is sent before `wait_for_all`.
  __device__ explicit Team(Mail& mail) : rank(cluster_rank()), size(cluster_size()), mail_(mail) { cluster_arrive(); }

  __device__ void wait_for_all() { cluster_wait(); }

  // A barrier of all threads of the team.
  __device__ void barrier() {
    cluster_arrive();
    cluster_wait();
  }

  // Of one warp, whose lanes all have the words.
  template <class... Words>
  __device__ void send_by_warp(Words... words) {
    const int lane = threadIdx.x % kWarp;
    if (lane < size) put(lane, uint64_t(words)...);
  }

  // Of one thread.
  template <class... Words>
  __device__ void send_by_thread(Words... words) {
    for (int to = 0; to < size; ++to) put(to, uint64_t(words)...);
  }

  // Every block has sent; afterwards `received` tells what.
  __device__ void exchange() {
    barrier();
    turn_ ^= 1;
  }

  // A word of the last exchange.
  __device__ uint64_t received(int from, int word) const { return mail_.words[turn_ ^ 1][from][word]; }

  const int rank;
  const int size;

 private:
  template <class... Words>
  __device__ void put(int to, Words... words) {
    static_assert(sizeof...(Words) <= kMailWords, "a mail has room for so many words");
    uint64_t* slot = in_block(mail_.words[turn_][rank], to);
    int at = 0;
    ((slot[at++] = words), ...);
  }

  Mail& mail_;
  int turn_ = 0;
};

__device__ inline uint64_t word_of(double value) { return uint64_t(__double_as_longlong(value)); }
__device__ inline double double_of(uint64_t word) { return __longlong_as_double(int64_t(word)); }

// Sums in an order that depends on the lane alone. Every lane gets the warp's sum.
__device__ inline double warp_sum(double value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

// The sum over this lane and those before it.
__device__ inline double warp_prefix(double value) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const double before = __shfl_up_sync(kAllLanes, value, distance);
    if (lane >= distance) value += before;
  }
  return value;
}

}  // namespace pw::sampling
