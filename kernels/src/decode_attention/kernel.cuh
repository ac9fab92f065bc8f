// The kernel on tensor cores: blocks of a few warps take units in order, and each warp its share of every unit's tiles.
#pragma once

#include "common/dependent.cuh"
#include "finish.cuh"
#include "queue.cuh"
#include "ring.cuh"
#include "warp_attention.cuh"

namespace pw::decode_attention {

// How a block works.
template <int kWarpsOfBlock, int kBlocksOfProcessor, int kStagesOfWarp>
struct Shape {
  static constexpr int kWarps = kWarpsOfBlock;
  static constexpr int kBlocks = kBlocksOfProcessor;
  static constexpr int kStages = kStagesOfWarp;
  static constexpr int kThreads = kWarps * kWarp;
};

struct Launch {
  PwDecodeAttention op;
  Passes passes;
  int log2_block_size;
  // On scores in powers of two
  float scale;
  // Most query heads of a unit
  int max_heads;
};

// Floats from one head's part to the next: the heads of a warp's neighbouring lanes begin in different banks.
template <int kDim>
constexpr int kPartStride = kDim + 4;

// A block's shared memory: the warps' rings, then their parts.
template <class T, int kDim, class S>
constexpr int kRingBytes = S::kWarps * TileRing<T, kDim, S::kStages>::kBytes;

template <class T, int kDim, class S>
int shared_bytes(int max_heads) {
  return kRingBytes<T, kDim, S> + S::kWarps * max_heads * (kPartStride<kDim> * int(sizeof(float)) + int(sizeof(float2)));
}

// Tiles of each warp's first unit that are asked for while the kernel before still runs: a few, since it reads as well.
constexpr int kTilesAhead = 2;

// One warp's share of a unit.
template <class T, int kDim, int kHeadTiles, class Ring>
__device__ void attend(WarpAttention<T, kDim, kHeadTiles>& attention, const PwDecodeItem& item, float scale,
                       TileCursor<T, kDim>& cursor, Ring& ring) {
  using Tile = StagedTile<T, kDim>;
  for (int index = 0; index < cursor.count(); ++index) {
    const int position = cursor.position(index);
    const bool is_whole = position >= item.begin && position + kTileTokens <= item.end;
    const auto is_seen = [&](int token) { return position + token >= item.begin && position + token < item.end; };
    const Tile tile = ring.take();
    Scores<kHeadTiles> scores;
    attention.score(tile, scores);
    if (!is_whole) {
#pragma unroll
      for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (!is_seen(Tile::key_token(j / 2))) scores[t][j] = kMinusInfinity;
        }
      }
    }
    uint32_t weights[kHeadTiles][2];
    attention.weigh(scores, scale, weights);
    if (is_whole) {
      attention.accumulate([&](int which, int i) { return tile.values(which, i); }, weights);
    } else {
      // What the token may not see can be anything, even a NaN, which a weight of zero does not remove.
      const auto seen_values = [&](int which, int i) {
        return is_seen(Tile::value_token(which)) ? tile.values(which, i) : make_uint4(0, 0, 0, 0);
      };
      attention.accumulate(seen_values, weights);
    }
    ring.copy_next(cursor);
  }
}

template <class T, int kDim, int kHeadTiles, class S>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks) decode(const __grid_constant__ Launch launch) {
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ int shared_next;
  const PwDecodeAttention& op = launch.op;
  const PwKvView& kv = op.attention.kv;
  const int warp = threadIdx.x / kWarp, max_heads = launch.max_heads;
  const int64_t values_offset = int64_t(kv.num_kv_heads) * kv.block_size * kDim;
  TileRing<T, kDim, S::kStages> ring(shared + warp * (kRingBytes<T, kDim, S> / S::kWarps), values_offset);
  float* const part_out = reinterpret_cast<float*>(shared + kRingBytes<T, kDim, S>);
  float2* const part_stats = reinterpret_cast<float2*>(part_out + S::kWarps * max_heads * kPartStride<kDim>);
  const WarpParts parts = {part_out, part_stats, S::kWarps, max_heads, kPartStride<kDim>};

  const int count = num_units(op, launch.passes);
  const UnitQueue queue(op.queue, count);
  if (queue.first() >= count) {
    wait_for_previous();
    return let_next_start();
  }
  const auto cursor_of = [&](const Unit& unit) {
    return TileCursor<T, kDim>(op, unit, launch.log2_block_size, warp, S::kWarps);
  };
  Unit unit = unit_at(op, launch.passes, queue.first());
  TileCursor<T, kDim> cursor = cursor_of(unit);
  prefetch(cursor, kTilesAhead, values_offset);
  wait_for_previous();
  let_next_start();
  ring.start(cursor);
  int next = 0;
  do {
    // The answer is not needed before the end of this unit.
    if (threadIdx.x == 0) next = queue.take();
    const T* queries = static_cast<const T*>(op.attention.q) + unit.item.token * op.attention.q_stride +
                       int64_t(unit.first_head) * kDim;
    WarpAttention<T, kDim, kHeadTiles> attention(queries, unit.num_heads);
    attend(attention, unit.item, launch.scale, cursor, ring);
    attention.leave(part_out + warp * max_heads * kPartStride<kDim>, kPartStride<kDim>, part_stats + warp * max_heads,
                    unit.num_heads);
    if (threadIdx.x == 0) shared_next = next;
    __syncthreads();
    next = shared_next;
    const Unit done = unit;
    // The next unit's first tiles travel while this one is finished.
    if (next < count) {
      unit = unit_at(op, launch.passes, next);
      cursor = cursor_of(unit);
      ring.start(cursor);
    }
    finish<T, 4>(op, launch.passes, done, parts, kDim);
    __syncthreads();
  } while (next < count);
}

}  // namespace pw::decode_attention
