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

  // Without branches, so that neighbours are computed at the same time.
  __device__ float weight(float logit, uint32_t id) const {
    const float weight = weigher(logit);
    return limit.keeps(logit, id) & (weight >= min_p) ? weight : 0.0f;
  }
};

// The lane into whose weight the goal falls, and the sum before it. Roundings may leave none: then it is the last that weighs
// anything.
struct Found {
  int lane;
  double before;
  double after_all;
  bool is_over;
};
__device__ inline Found find_lane(double own, double before, double goal) {
  const double after = before + warp_prefix(own);
  const unsigned over = __ballot_sync(kAllLanes, own > 0.0 && after > goal), some = __ballot_sync(kAllLanes, own > 0.0);
  const int lane = over != 0 ? __ffs(int(over)) - 1 : some != 0 ? 31 - __clz(int(some)) : 0;
  return {lane, __shfl_sync(kAllLanes, after - own, lane), __shfl_sync(kAllLanes, after, kWarp - 1), over != 0};
}

// The same among a lane's neighbours.
struct Four {
  float weights[kAccess] = {};

  __device__ double sum() const {
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < kAccess; ++i) sum += double(weights[i]);
    return sum;
  }

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
__device__ __forceinline__ uint32_t find_token(const Part& part, const Draw& draw, double before, double goal) {
  const int lane = threadIdx.x % kWarp;
  uint32_t token = 0;
  for (int tile = part.begin; tile < part.end; tile += kTile) {
    const int at = tile + kAccess * lane;
    Four four;
#pragma unroll
    for (int i = 0; i < kAccess; ++i) {
      if (at + i >= part.end) continue;
      const float logit = HELD ? part.logits[at + i] : __ldcg(part.logits + at + i);
      four.weights[i] = draw.weight(logit, uint32_t(part.first + at + i));
    }
    const double sum = four.sum();
    const Found found = find_lane(sum, before, goal);
    const uint32_t mine = uint32_t(part.first + at + four.find(found.before, goal));
    if (__shfl_sync(kAllLanes, sum, found.lane) > 0.0) token = __shfl_sync(kAllLanes, mine, found.lane);
    if (found.is_over) break;
    before = found.after_all;
  }
  return token;
}

struct DrawWords {
  double warps[kWarps];
};

// Every thread of the team gets the token.
template <bool HELD>
__device__ __forceinline__ uint32_t take(Team& team, DrawWords& words, const Part& part, const Draw& draw) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double mine = 0.0;
  for_each_few<HELD>(part, [&](const Few<HELD>& few, uint32_t id) {
    if (few.max() < draw.limit.logit) return;
#pragma unroll
    for (int i = 0; i < Few<HELD>::kNum; ++i) mine += double(draw.weight(few.logits[i], id + i));
  });
  mine = warp_sum(mine);
  if (lane == 0) words.warps[warp] = mine;
  __syncthreads();
  if (warp == 0) team.send_by_warp(word_of(warp_sum(lane < kWarps ? words.warps[lane] : 0.0)));
  team.exchange();

  const double of_block = lane < team.size ? double_of(team.received(lane, 0)) : 0.0;
  const double goal = draw.uniform * warp_sum(of_block);
  const Found block = find_lane(of_block, 0.0, goal);
  if (team.rank == block.lane) {
    const Found found = find_lane(lane < kWarps ? words.warps[lane] : 0.0, block.before, goal);
    if (warp == found.lane) team.send_by_warp(find_token<HELD>(part, draw, found.before, goal));
  }
  team.exchange();
  return uint32_t(team.received(block.lane, 0));
}

}  // namespace pw::sampling
