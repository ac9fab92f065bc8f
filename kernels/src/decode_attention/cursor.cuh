// Where a warp's share of a unit lies in the pool: tiles of 16 tokens, found through the block table.
#pragma once

#include <cstdint>

#include "common/reduce.cuh"
#include "unit.cuh"

namespace pw::decode_attention {

constexpr int kTileTokens = 16;

// Finds every `stride`-th tile of a unit, in order.
template <class T, int kDim>
class TileCursor {
 public:
  __device__ TileCursor(const PwDecodeAttention& op, const Unit& unit, int log2_block_size, int warp, int num_warps)
      : table_(op.attention.tables + int64_t(unit.item.slot) * op.attention.max_blocks_per_slot),
        base_(static_cast<const T*>(op.attention.kv.pool) + op.attention.kv.layer_offset +
              int64_t(unit.kv_head) * op.attention.kv.block_size * kDim),
        block_stride_(op.attention.kv.block_stride),
        log2_block_size_(log2_block_size),
        first_(unit.item.begin / kTileTokens + warp),
        stride_(num_warps) {
    const int end = (unit.item.end + kTileTokens - 1) / kTileTokens;
    count_ = first_ < end ? (end - first_ + num_warps - 1) / num_warps : 0;
  }

  __device__ int count() const { return count_; }
  __device__ bool is_at_end() const { return next_ >= count_; }
  // The position of a tile's first token; it may be before the unit's first.
  __device__ int position(int tile) const { return (first_ + tile * stride_) * kTileTokens; }

  // The keys of the next tile. The lanes read the table together, 32 tiles at once.
  __device__ const T* advance() {
    if (next_ % kWarp == 0) {
      const int tile = next_ + int(threadIdx.x % kWarp);
      if (tile < count_) blocks_ = __ldg(table_ + (position(tile) >> log2_block_size_));
    }
    const int64_t block = __shfl_sync(kAllLanes, blocks_, next_ % kWarp);
    const int token = position(next_) & ((1 << log2_block_size_) - 1);
    next_ += 1;
    return base_ + block * block_stride_ + token * kDim;
  }

 private:
  const int32_t* table_;
  const T* base_;
  int64_t block_stride_;
  int log2_block_size_, first_, stride_, count_;
  int next_ = 0;
  int blocks_ = 0;
};

// Asks for tiles to be brought to the L2 cache. It answers for memory, so what another kernel writes later is not missed.
template <class T, int kDim>
__device__ void prefetch(TileCursor<T, kDim> cursor, int num_tiles, int64_t values_offset) {
  constexpr int kLine = 128 / sizeof(T);
  const int lane = threadIdx.x % kWarp;
  for (int tile = 0; tile < min(num_tiles, cursor.count()); ++tile) {
    const T* line = cursor.advance() + lane * kLine;
    if (lane * kLine >= kTileTokens * kDim) continue;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line + values_offset));
  }
}

}  // namespace pw::decode_attention
