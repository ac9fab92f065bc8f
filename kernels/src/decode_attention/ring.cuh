// Keys and values on their way: tiles of 16 tokens are copied to shared memory a few ahead. Knows where elements lie there,
// not what is computed of them.
//
// In comments a lane is 4 g + c: g its group of 0..8, c its place there. Chunk x of a token is its elements 8x..8x + 8, the
// 16 bytes of one access.
#pragma once

#include "cursor.cuh"

namespace pw::decode_attention {

// Elements of a chunk.
constexpr int kChunk = 8;

// Memory is read once, so what it leaves in the L2 cache may go first.
__device__ inline uint64_t evict_first() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// A tile in shared memory: the keys of its tokens, then their values. Chunks are permuted within a token, so that the eight
// lanes which are served together always find theirs in different banks.
template <class T, int kDim>
class StagedTile {
 public:
  static constexpr int kRowBytes = kDim * int(sizeof(T));
  static constexpr int kHalfBytes = kTileTokens * kRowBytes;
  static constexpr int kBytes = 2 * kHalfBytes;
  static constexpr int kKeyChunks = kDim / kChunk / 4;    // a lane's, of one token
  static constexpr int kValueChunks = kDim / kChunk / 8;

  explicit __device__ StagedTile(uint32_t address) : address_(address) {}

  static __device__ int key_token(int half) { return int(threadIdx.x % kWarp / 4) + half * 8; }
  static __device__ int value_token(int which) { return int(threadIdx.x % 4) * 2 + which % 2 + which / 2 * 8; }

  // Chunk 4i + c of token g or g + 8.
  __device__ uint4 keys(int half, int i) const { return load(key_token(half), 4 * i + int(threadIdx.x % 4)); }
  // Chunk 8i + g of token 2c, 2c + 1, 2c + 8 or 2c + 9.
  __device__ uint4 values(int which, int i) const {
    return load(kTileTokens + value_token(which), 8 * i + int(threadIdx.x % kWarp / 4));
  }

  // Starts to copy a tile here, all lanes together.
  __device__ void copy(const T* keys, int64_t values_offset, uint64_t policy) const {
    constexpr int kChunks = kDim / kChunk, kTokensAtOnce = kWarp / kChunks;
    const int lane = threadIdx.x % kWarp, chunk = lane % kChunks;
#pragma unroll
    for (int i = 0; i < kTileTokens / kTokensAtOnce; ++i) {
      const int token = i * kTokensAtOnce + lane / kChunks;
      const T* from = keys + token * kDim + chunk * kChunk;
      copy_chunk(at(token, chunk), from, policy);
      copy_chunk(at(kTileTokens + token, chunk), from + values_offset, policy);
    }
  }

 private:
  // Rows are tokens' keys, then tokens' values.
  __device__ uint32_t at(int row, int chunk) const {
    const int swizzle = ((row ^ (row >> 2)) & 1) << 2 | (row & 2);
    return address_ + row * kRowBytes + ((chunk ^ swizzle) << 4);
  }

  __device__ uint4 load(int row, int chunk) const {
    uint4 loaded;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(loaded.x), "=r"(loaded.y), "=r"(loaded.z), "=r"(loaded.w)
                 : "r"(at(row, chunk)));
    return loaded;
  }

  static __device__ void copy_chunk(uint32_t to, const T* from, uint64_t policy) {
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "l"(policy)
                 : "memory");
  }

  uint32_t address_;
};

// The tiles of one warp that are on their way, in a ring of its own. All lanes call together.
template <class T, int kDim, int kStages>
class TileRing {
 public:
  static constexpr int kBytes = kStages * StagedTile<T, kDim>::kBytes;

  __device__ TileRing(void* memory, int64_t values_offset)
      : address_(uint32_t(__cvta_generic_to_shared(memory))), values_offset_(values_offset), policy_(evict_first()) {}

  // The first tiles of a unit. Those of the unit before have all been taken.
  __device__ void start(TileCursor<T, kDim>& cursor) {
    next_ = 0;
#pragma unroll
    for (int i = 0; i < kStages; ++i) copy_next(cursor);
  }

  // The next tile, to be used before `copy_next`.
  __device__ StagedTile<T, kDim> take() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
    __syncwarp();
    return StagedTile<T, kDim>(address_ + next_ * StagedTile<T, kDim>::kBytes);
  }

  // Starts to copy another tile to the place of the one taken last. A group is counted even if no tile is left, so that
  // `take` always waits for all but the latest.
  __device__ void copy_next(TileCursor<T, kDim>& cursor) {
    __syncwarp();
    if (!cursor.is_at_end()) {
      const StagedTile<T, kDim> place(address_ + next_ * StagedTile<T, kDim>::kBytes);
      place.copy(cursor.advance(), values_offset_, policy_);
    }
    asm volatile("cp.async.commit_group;");
    next_ = next_ + 1 == kStages ? 0 : next_ + 1;
  }

 private:
  uint32_t address_;
  int64_t values_offset_;
  uint64_t policy_;
  int next_ = 0;
};

}  // namespace pw::decode_attention
