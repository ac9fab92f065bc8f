// Log-probabilities of the model's own logits: of one token, with its rank, and of the most likely ones.
#pragma once

#include "pagewise/sampling.h"
#include "sampling/select.cuh"

namespace pw::sampling {

// Of one row. `log_sum` is the logarithm of the sum of all exponentials.
struct Score {
  double log_sum;
  int num_more_likely;

  __device__ float logprob(float logit) const { return float(double(logit) - log_sum); }
};

struct ScoreWords {
  double sums[kWarps];
  int nums[kWarps];
};

// Every thread of the team gets it.
template <bool HELD>
__device__ __forceinline__ Score score(Team& team, ScoreWords& words, const Part& part, float max, float target) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  double mine = 0.0;
  int num_more = 0;
  for_each<HELD>(part, [&](float logit, uint32_t) {
    mine += double(__expf(logit - max));
    num_more += logit > target;
  });
  double sum = warp_sum(mine);
  num_more = __reduce_add_sync(kAllLanes, num_more);
  if (lane == 0) words.sums[warp] = sum, words.nums[warp] = num_more;
  __syncthreads();
  if (warp == 0) {
    sum = warp_sum(lane < kWarps ? words.sums[lane] : 0.0);
    num_more = __reduce_add_sync(kAllLanes, lane < kWarps ? words.nums[lane] : 0);
    team.send_by_warp(word_of(sum), num_more);
  }
  team.exchange();
  sum = warp_sum(lane < team.size ? double_of(team.received(lane, 0)) : 0.0);
  num_more = __reduce_add_sync(kAllLanes, lane < team.size ? int(team.received(lane, 1)) : 0);
  return {double(max) + log(sum), num_more};
}

// Writes the `num_top` most likely tokens, at most kListLen and no more than there are, in rank order.
template <bool HELD>
__device__ __forceinline__ void list_top(Team& team, Selection& selection, const Part& part, const Extremes& extremes,
                                         const Score& score, int num_top, PwTopToken* top) {
  const Limit limit = select<HELD>(team, selection, part, Measure::of_tokens(extremes, num_top), Limit::none());
  for_each<HELD>(part, [&](float logit, uint32_t id) {
    if (!limit.keeps(logit, id)) return;
    const uint32_t at = atomicAdd(in_block(&selection.kept_len, 0), 1u);
    if (at < kListLen) in_block(selection.list, 0)[at] = place_of(logit, id);
  });
  team.barrier();
  if (team.rank != 0 || int(threadIdx.x) >= num_top) return;
  const uint64_t place = selection.list[threadIdx.x];
  int num_before = 0;
  for (int i = 0; i < num_top; ++i) num_before += selection.list[i] > place;
  top[num_before] = {int32_t(id_at(place)), score.logprob(logit_at(place))};
}

}  // namespace pw::sampling
