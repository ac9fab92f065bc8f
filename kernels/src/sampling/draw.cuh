// One draw: of the tokens that count, in ascending order of id, the first at which the running sum of weights exceeds a share
// of their total. Sums are in double precision: of a lane, of a warp, of a block, then over the row.
#pragma once

#include "sampling/part.cuh"
#include "sampling/weight.cuh"

namespace pw::sampling {

// Of one row.
struct Draw {
  Weigher weigher;
  Limit limit;
  float min_p;
  // In [0, 1)
  double uniform;

  __device__ float weight(float logit, uint32_t id) const {
    if (!limit.keeps(logit, id)) return 0.0f;
    const float weight = weigher(logit);
    return weight >= min_p ? weight : 0.0f;
  }
};

// Which of some segments, by their sums in order, the goal falls into; and the sum before it. Roundings may leave no segment:
// then it is the last that weighs anything.
struct Found {
  int index;
  double before;
};
template <class Sum>
__device__ Found find_segment(int num, double before, double goal, Sum&& sum) {
  Found last = {0, before};
  for (int i = 0; i < num; ++i) {
    const double own = sum(i);
    if (own > 0.0) last = {i, before};
    before += own;
    if (before > goal) break;
  }
  return last;
}

// Four neighbours of a lane.
struct Four {
  float weights[kAccess] = {};

  __device__ double sum() const {
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < kAccess; ++i) sum += double(weights[i]);
    return sum;
  }

  // The first at which the running sum exceeds the goal; else the last that weighs anything.
  __device__ int find(double before, double goal) const {
    int found = 0;
    bool is_over = false;
#pragma unroll
    for (int i = 0; i < kAccess; ++i) {
      before += double(weights[i]);
      if (weights[i] > 0.0f && !is_over) found = i, is_over = before > goal;
    }
    return found;
  }
};

// Of one warp: the token in its segment. Every lane gets it.
template <bool HELD>
__device__ uint32_t find_token(const Part& part, const Draw& draw, double before, double goal) {
  const int lane = threadIdx.x % kWarp;
  uint32_t last = 0;
  for (int tile = part.begin; tile < part.end; tile += kTile) {
    const int at = tile + kAccess * lane;
    Four four;
    if (at < part.end) {
      visit(part, HELD ? load_aligned(part.logits + at) : load_row(part, at), at, [&](float logit, int offset) {
        four.weights[offset - at] = draw.weight(logit, uint32_t(part.first + offset));
      });
    }
    const double sum = four.sum(), prefix = warp_prefix(sum);
    const unsigned over = __ballot_sync(kAllLanes, sum > 0.0 && before + prefix > goal);
    const uint32_t token = uint32_t(part.first + at + four.find(before + (prefix - sum), goal));
    if (over != 0) return __shfl_sync(kAllLanes, token, __ffs(int(over)) - 1);
    if (sum > 0.0) last = token;
    before += __shfl_sync(kAllLanes, prefix, kWarp - 1);
  }
  return __reduce_max_sync(kAllLanes, last);
}

// Every thread of the team gets the token.
template <bool HELD>
__device__ __noinline__ uint32_t take(Team& team, WarpWords& warps, const Part& part, const Draw& draw) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double mine = 0.0;
  for_each<HELD>(part, [&](float logit, uint32_t id) { mine += double(draw.weight(logit, id)); });
  const double warp_total = warp_sum(mine);
  if (lane == 0) warps.words[warp][0] = word_of(warp_total);
  __syncthreads();
  const auto sum_of_warp = [&](int i) { return double_of(warps.words[i][0]); };
  double block_total = 0.0;
  for (int i = 0; i < kWarps; ++i) block_total += sum_of_warp(i);
  if (warp == 0) team.send_by_warp(word_of(block_total));
  team.exchange();

  const auto sum_of_block = [&](int i) { return double_of(team.received(i, 0)); };
  double total = 0.0;
  for (int i = 0; i < team.size; ++i) total += sum_of_block(i);
  const double goal = draw.uniform * total;
  const Found block = find_segment(team.size, 0.0, goal, sum_of_block);
  if (team.rank == block.index) {
    const Found found = find_segment(kWarps, block.before, goal, sum_of_warp);
    if (warp == found.index) {
      const uint32_t token = find_token<HELD>(part, draw, found.before, goal);
      team.send_by_warp(uint64_t(token));
    }
  }
  team.exchange();
  return uint32_t(team.received(block.index, 0));
}

}  // namespace pw::sampling
