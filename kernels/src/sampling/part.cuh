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
  // Whether an access of four may begin at a multiple of four
  bool is_aligned;

  __device__ Part(float* row, int vocab_size, int part_len, int rank) {
    const int segment_len = (part_len + kWarps * kTile - 1) / (kWarps * kTile) * kTile;
    first = min(rank * part_len, vocab_size);
    len = min(part_len, vocab_size - first);
    begin = min(int(threadIdx.x / kWarp) * segment_len, len);
    end = min(begin + segment_len, len);
    is_aligned = vocab_size % kAccess == 0;
    logits = row + first;
  }

  __device__ bool has(int token) const { return token >= first && token < first + len; }
};

__device__ inline float4 load_aligned(const float* from) { return *reinterpret_cast<const float4*>(from); }

// Four logits from `at` on; those beyond `end` are undefined. The loads bypass the first cache: nothing is read twice from
// there.
__device__ inline float4 load_row(const Part& part, int at) {
  const float* from = part.logits + at;
  if (part.is_aligned) return __ldcg(reinterpret_cast<const float4*>(from));
  float4 four = {};
  if (at < part.end) four.x = __ldcg(from);
  if (at + 1 < part.end) four.y = __ldcg(from + 1);
  if (at + 2 < part.end) four.z = __ldcg(from + 2);
  if (at + 3 < part.end) four.w = __ldcg(from + 3);
  return four;
}

// Calls `f(logit, offset)` for four neighbours, where there are as many.
template <class F>
__device__ void visit(const Part& part, float4 four, int at, F&& f) {
  if (at < part.end) f(four.x, at);
  if (at + 1 < part.end) f(four.y, at + 1);
  if (at + 2 < part.end) f(four.z, at + 2);
  if (at + 3 < part.end) f(four.w, at + 3);
}

// Calls `f(logit, id)` for all of the warp's segment. HELD: the part is in shared memory.
template <bool HELD, class F>
__device__ void for_each(const Part& part, F&& f) {
  for (int at = part.begin + kAccess * int(threadIdx.x % kWarp); at < part.end; at += kTile) {
    const float4 four = HELD ? load_aligned(part.logits + at) : load_row(part, at);
    visit(part, four, at, [&](float logit, int offset) { f(logit, uint32_t(part.first + offset)); });
  }
}

// Of a whole row, once the team has agreed.
struct Extremes {
  // The place of the first token of the order; the logit there is the largest
  uint64_t best;
  float min;
  // A logit is NaN or infinite
  bool is_faulty;

  __device__ float max() const { return logit_at(best); }
};

// Of one thread.
struct Scan {
  float max = -INFINITY;
  uint32_t id = kMaxId;
  float min = INFINITY;
  bool is_faulty = false;

  // Ids ascend, so the first of equals stays.
  __device__ void see(float logit, uint32_t seen) {
    if (logit > max) max = logit, id = seen;
    min = fminf(min, logit);
    is_faulty |= !(fabsf(logit) < INFINITY);
  }
};

// The words of a block's warps on their way to its first warp.
struct WarpWords {
  uint64_t words[kWarps][2];
};

// Every thread of the team brings its scan and gets the extremes.
__device__ __noinline__ inline Extremes agree(Team& team, WarpWords& warps, const Scan& scan) {
  uint64_t best = place_of(scan.max, scan.id);
  float min = scan.min;
  const auto join = [&](int distance) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, best, distance);
    best = other > best ? other : best;
    min = fminf(min, __shfl_xor_sync(kAllLanes, min, distance));
  };
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) join(distance);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (lane == 0) warps.words[warp][0] = best, warps.words[warp][1] = __float_as_uint(min);
  const bool is_faulty = __syncthreads_or(scan.is_faulty);
  if (warp == 0) {
    best = warps.words[lane % kWarps][0], min = __uint_as_float(uint32_t(warps.words[lane % kWarps][1]));
#pragma unroll
    for (int distance = kWarps / 2; distance > 0; distance /= 2) join(distance);
    team.send_by_warp(best, uint64_t(__float_as_uint(min)) | uint64_t(is_faulty) << 32);
  }
  team.exchange();
  Extremes all = {0, INFINITY, false};
  for (int from = 0; from < team.size; ++from) {
    const uint64_t other = team.received(from, 0), word = team.received(from, 1);
    all.best = other > all.best ? other : all.best;
    all.min = fminf(all.min, __uint_as_float(uint32_t(word)));
    all.is_faulty |= (word >> 32) != 0;
  }
  return all;
}

// Scans the warp's segment of a row where it lies in memory, and keeps a copy at `copy` if that is not null.
__device__ __noinline__ inline Scan read_row(const Part& part, float* copy) {
  Scan scan;
  const int first_at = part.begin + kAccess * int(threadIdx.x % kWarp);
  if (!part.is_aligned) {
    for (int at = first_at; at < part.end; at += kTile) {
      visit(part, load_row(part, at), at, [&](float logit, int offset) {
        scan.see(logit, uint32_t(part.first + offset));
        if (copy != nullptr) copy[offset] = logit;
      });
    }
    return scan;
  }
  // Many accesses are in flight at once. Parts are whole accesses here.
  constexpr int kTiles = 8;
  for (int base = first_at; base < part.end; base += kTiles * kTile) {
    float4 four[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int at = base + tile * kTile;
      if (at < part.end) four[tile] = __ldcg(reinterpret_cast<const float4*>(part.logits + at));
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int at = base + tile * kTile;
      if (at >= part.end) break;
      const uint32_t id = uint32_t(part.first + at);
      scan.see(four[tile].x, id), scan.see(four[tile].y, id + 1);
      scan.see(four[tile].z, id + 2), scan.see(four[tile].w, id + 3);
      if (copy != nullptr) *reinterpret_cast<float4*>(copy + at) = four[tile];
    }
  }
  return scan;
}

}  // namespace pw::sampling
