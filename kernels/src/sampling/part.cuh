// A block's part of a row of logits, the walk over it, and its extremes.
//
//   row   [0 .......................................... vocab_size)
//   part      [first .......... first + len)                           one a block
//   segment       [begin .. end)                                       one a warp, whole tiles, ascending
//
// Parts and segments depend on the size of the vocabulary alone, so sums do not depend on the load.
#pragma once

#include "sampling/place.cuh"
#include "sampling/team.cuh"

namespace pw::sampling {

struct Part {
  // The part's first logit: in shared memory, or where the row lies
  float* logits;
  int first;
  int len;
  // Of this warp, relative to the part
  int begin;
  int end;

  __device__ Part(int vocab_size, int part_len, int rank) {
    const int segment_len = (part_len + kWarps * kTile - 1) / (kWarps * kTile) * kTile;
    first = min(rank * part_len, vocab_size);
    len = min(part_len, vocab_size - first);
    begin = min(int(threadIdx.x / kWarp) * segment_len, len);
    end = min(begin + segment_len, len);
    logits = nullptr;
  }

  __device__ Part at(float* place) const {
    Part part = *this;
    part.logits = place;
    return part;
  }

  __device__ bool has(int token) const { return token >= first && token < first + len; }
};

// Neighbours that a lane has at a time. HELD: the part is in shared memory, and its length a multiple of an access.
template <bool HELD>
struct Few {
  static constexpr int kNum = HELD ? kAccess : 1;
  float logits[kNum];

  // Loads from memory bypass the first cache, which nothing keeps up to date.
  static __device__ Few load(const Part& part, int at) {
    if constexpr (HELD) {
      const float4 four = *reinterpret_cast<const float4*>(part.logits + at);
      return {{four.x, four.y, four.z, four.w}};
    } else {
      return {{__ldcg(part.logits + at)}};
    }
  }

  __device__ float max() const {
    float max = logits[0];
#pragma unroll
    for (int i = 1; i < kNum; ++i) max = fmaxf(max, logits[i]);
    return max;
  }
};

// Calls `f(few, id of the first)` for all of the warp's segment, in ascending order.
template <bool HELD, class F>
__device__ __forceinline__ void for_each_few(const Part& part, F&& f) {
  constexpr int kNum = Few<HELD>::kNum;
  for (int at = part.begin + kNum * int(threadIdx.x % kWarp); at < part.end; at += kNum * kWarp) {
    f(Few<HELD>::load(part, at), uint32_t(part.first + at));
  }
}

// Calls `f(logit, id)` one by one.
template <bool HELD, class F>
__device__ __forceinline__ void for_each(const Part& part, F&& f) {
  for_each_few<HELD>(part, [&](const Few<HELD>& few, uint32_t id) {
#pragma unroll
    for (int i = 0; i < Few<HELD>::kNum; ++i) f(few.logits[i], id + i);
  });
}

// Of a thread, a warp or a row.
struct Extremes {
  // The first token of the order
  uint32_t key;
  uint32_t id;
  // 0: a logit is NaN or infinite
  uint32_t min_key;
  // That many segments have a logit not below this
  uint32_t floor_key;
  uint32_t num_segments;

  __device__ float max() const { return logit_of(key); }
  __device__ float min() const { return logit_of(min_key); }
  __device__ bool are_finite() const { return min_key != 0; }

  // Of all lanes.
  __device__ Extremes joined() const {
    Extremes all;
    all.key = __reduce_max_sync(kAllLanes, key);
    all.id = __reduce_min_sync(kAllLanes, key == all.key ? id : kMaxId);
    all.min_key = __reduce_min_sync(kAllLanes, min_key);
    all.floor_key = __reduce_min_sync(kAllLanes, floor_key);
    all.num_segments = __reduce_add_sync(kAllLanes, num_segments);
    return all;
  }
};

// Neutral in a join.
__device__ inline Extremes no_extremes() { return {0, kMaxId, ~0u, ~0u, 0}; }

struct ExtremeWords {
  Extremes warps[kWarps];
};

// Of the whole row; every thread of the team gets them.
template <bool HELD>
__device__ __forceinline__ Extremes find_extremes(Team& team, ExtremeWords& words, const Part& part) {
  float max = -INFINITY, min = INFINITY, zero = 0.0f;
  uint32_t id = kMaxId;
  for_each<HELD>(part, [&](float logit, uint32_t seen) {
    // Ids ascend, so the first of equals stays.
    if (logit > max) max = logit, id = seen;
    min = fminf(min, logit);
    // NaN, once a logit is not finite.
    zero = __fmaf_rn(logit, 0.0f, zero);
  });
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  Extremes all = {key_of(max), id, zero == 0.0f ? key_of(min) : 0, ~0u, 0};
  all = all.joined();
  if (part.begin < part.end) all.floor_key = all.key, all.num_segments = 1;
  if (lane == 0) words.warps[warp] = all;
  __syncthreads();
  if (warp == 0) {
    all = (lane < kWarps ? words.warps[lane] : no_extremes()).joined();
    team.send_by_warp(uint64_t(all.key) << 32 | all.id, uint64_t(all.min_key) << 32 | all.floor_key, all.num_segments);
  }
  team.exchange();
  all = no_extremes();
  if (lane < team.size) {
    const uint64_t best = team.received(lane, 0), least = team.received(lane, 1);
    all = {uint32_t(best >> 32), uint32_t(best), uint32_t(least >> 32), uint32_t(least), uint32_t(team.received(lane, 2))};
  }
  return all.joined();
}

// Copies the warp's segment from memory to where it may be changed.
template <bool HELD>
__device__ __forceinline__ void copy_segment(const Part& from, float* to) {
  constexpr int kStep = HELD ? kAccess : 1;
  for (int at = from.begin + kStep * int(threadIdx.x % kWarp); at < from.end; at += kStep * kWarp) {
    if constexpr (HELD) {
      *reinterpret_cast<float4*>(to + at) = __ldcg(reinterpret_cast<const float4*>(from.logits + at));
    } else {
      to[at] = __ldcg(from.logits + at);
    }
  }
}

}  // namespace pw::sampling
