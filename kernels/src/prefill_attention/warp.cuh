// Prefill attention for every card since sm_80, and for blocks of any size: products of single warps, keys and values copied
// by the threads through the block table (after Dao, "FlashAttention-2", 2023).
//
// A block of threads computes one tile with one key-value head; each of its eight warps has sixteen rows and meets all keys.
// While they work on one tile of keys and values, the next is on its way to the other half of shared memory.
#pragma once

#include "common/mbarrier.cuh"
#include "prefill_attention/softmax.cuh"

namespace pw::prefill {

struct WarpParams {
  PwPrefillAttention op;
  int group;
  float scale_log2;
};

constexpr int kWarpThreads = kRows / 16 * 32;

// Rows of d elements and 16 bytes more, so that eight rows one below the other lie in different banks.
template <int d, int n>
struct WarpShared {
  static constexpr int kRowBytes = d * 2 + 16;
  uint8_t keys[2][n][kRowBytes];
  uint8_t values[2][n][kRowBytes];
};

template <class T, int d, int n>
class WarpTile {
 public:
  using Shared = WarpShared<d, n>;

  __device__ WarpTile(const WarpParams& params, Shared& shared)
      : params_(params), shared_(shared), lane_(threadIdx.x % 32) {}

  __device__ void run() {
    const PwAttention& op = params_.op.attention;
    const int kv_head = blockIdx.x % op.kv.num_kv_heads;
    const int index = blockIdx.x / op.kv.num_kv_heads;
    if (index >= *params_.op.num_tiles) return;
    const PwPrefillTile tile = params_.op.tiles[index];
    const WarpRows rows{tile, kv_head * params_.group, params_.group, int(threadIdx.x) / 32 * 16};
    const RowPlaces places = places_of(rows, op.num_heads, lane_);
    load_queries<T, d>(queries_, op, rows, lane_);

    const Context context = context_of(tile, op.sliding_window);
    const int begin = first_key<n>(context), num_tiles = (context.end - begin + n - 1) / n;
    copy_tile(tile.slot, kv_head, begin, context, 0);
    arrange_queries(queries_, lane_);
    Statistics statistics;
    float sums[d / 8][4] = {};
    for (int i = 0; i < num_tiles; ++i) {
      const int first = begin + i * n;
      copies_wait<0>();
      __syncthreads();
      if (i + 1 < num_tiles) copy_tile(tile.slot, kv_head, first + n, context, (i + 1) % 2);

      float scores[n / 2] = {}, correction[2];
      multiply_keys(scores, i % 2);
      if (first + n - 1 > tile.first_position) mask_later(scores, places, first, lane_);
      if (op.sliding_window > 0) mask_earlier(scores, places, first, op.sliding_window, lane_);
      online_softmax(scores, statistics, params_.scale_log2, correction);
      scale_rows(flat(sums), correction);
      uint32_t terms[n / 16][4];
      round_terms<T>(terms, scores);
      multiply_values(sums, terms, i % 2);
    }
    row_sums(statistics);
    store_rows<T, d>(op, places, flat(sums), statistics.sum, lane_);
  }

 private:
  // Pieces of 16 x 8, one after another, as one array.
  static __device__ float (&flat(float (&pieces)[d / 8][4]))[d / 2] { return reinterpret_cast<float(&)[d / 2]>(pieces); }

  // Keys and values of the positions first .. first + n; zeros outside of the context, where the pool may hold what others
  // left.
  __device__ void copy_tile(int slot, int kv_head, int first, const Context& context, int half) {
    constexpr int kPieces = d / 8;
    const PwAttention& op = params_.op.attention;
    const PwKvView& kv = op.kv;
    const int32_t* table = op.tables + int64_t(slot) * op.max_blocks_per_slot;
    const int64_t values_offset = int64_t(kv.num_kv_heads) * kv.block_size * d;
#pragma unroll
    for (int i = threadIdx.x; i < n * kPieces; i += kWarpThreads) {
      const int row = i / kPieces, piece = i % kPieces;
      const bool inside = first + row >= context.begin && first + row < context.end;
      const int position = inside ? first + row : context.end - 1;
      const int token = kv_head * kv.block_size + position % kv.block_size;
      const T* keys = static_cast<const T*>(kv.pool) + table[position / kv.block_size] * kv.block_stride + kv.layer_offset +
                      int64_t(token) * d + piece * 8;
      copy_16_bytes(shared_address(shared_.keys[half][row] + piece * 16), keys, inside ? 16 : 0);
      copy_16_bytes(shared_address(shared_.values[half][row] + piece * 16), keys + values_offset, inside ? 16 : 0);
    }
    copies_commit();
  }

  __device__ void multiply_keys(float (&scores)[n / 2], int half) {
    const int row = lane_ % 8 + lane_ / 16 * 8, piece = lane_ / 8 % 2;
#pragma unroll
    for (int k = 0; k < d / 16; ++k) {
#pragma unroll
      for (int j = 0; j < n / 16; ++j) {
        uint32_t keys[4];
        load_matrices<Transpose::kNo>(keys, shared_address(shared_.keys[half][16 * j + row] + 32 * k + 16 * piece));
        product_16x8<T>(reinterpret_cast<float(&)[4]>(scores[8 * j]), queries_[k], keys[0], keys[1]);
        product_16x8<T>(reinterpret_cast<float(&)[4]>(scores[8 * j + 4]), queries_[k], keys[2], keys[3]);
      }
    }
  }

  __device__ void multiply_values(float (&sums)[d / 8][4], const uint32_t (&terms)[n / 16][4], int half) {
    const int row = lane_ % 16, piece = lane_ / 16;
#pragma unroll
    for (int k = 0; k < n / 16; ++k) {
#pragma unroll
      for (int j = 0; j < d / 16; ++j) {
        uint32_t values[4];
        load_matrices<Transpose::kYes>(values, shared_address(shared_.values[half][16 * k + row] + 32 * j + 16 * piece));
        product_16x8<T>(sums[2 * j], terms[k], values[0], values[1]);
        product_16x8<T>(sums[2 * j + 1], terms[k], values[2], values[3]);
      }
    }
  }

  const WarpParams& params_;
  Shared& shared_;
  const int lane_;
  uint32_t queries_[d / 16][4];
};

template <class T, int d, int n>
__global__ void __launch_bounds__(kWarpThreads, 1) warp_kernel(const __grid_constant__ WarpParams params) {
  extern __shared__ __align__(16) uint8_t shared_bytes[];
  WarpTile<T, d, n>(params, *reinterpret_cast<WarpShared<d, n>*>(shared_bytes)).run();
}

}  // namespace pw::prefill
