// A tile of new tokens with one key-value head: its rows, what of the context they see, and the launchers of all ways to
// compute it.
//
// The query heads that share a key-value head are rows of one matrix product, so row r of a tile is token r / group and head
// r % group. All kernels split a row's tokens the same way, whatever the shape.
//
// A row's bits depend on its own context alone, not on the tile that it shares with others. So keys come in tiles that begin
// at fixed positions; what of a tile a row does not see is masked, and its values are finite or zeros, so that it adds zeros;
// and a tile of which a row sees nothing leaves the row's largest score, sum and products as they were (softmax.cuh).
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "pagewise/attention.h"

namespace pw::prefill {

// Rows of the matrix products.
constexpr int kRows = 128;

constexpr float kLog2E = 1.4426950408889634f;

// Query heads of a key-value head.
inline int group_of(const PwAttention& op) { return op.num_heads / op.kv.num_kv_heads; }

// Whether queries can be read 16 bytes at a time.
inline bool queries_are_aligned(const PwAttention& op) { return op.q_stride % 8 == 0; }

// Positions begin .. end, half-open: all that any token of the tile sees.
struct Context {
  int begin;
  int end;
};

__host__ __device__ inline Context context_of(const PwPrefillTile& tile, int sliding_window) {
  const int first_seen = sliding_window > 0 ? tile.first_position + 1 - sliding_window : 0;
  return {first_seen > 0 ? first_seen : 0, tile.first_position + tile.num_tokens};
}

// Where the tiles of n keys begin of which the first has the context's first position: at a multiple of n, so that a
// position's place in its tile depends on nothing but the position.
template <int n>
__host__ __device__ inline int first_key(const Context& context) {
  return context.begin / n * n;
}

// The ways to compute it. Each enqueues, or says that it does not take the shape; the entry point asks them in this order.
PwStatus launch_warpgroup(const PwPrefillAttention& op, cudaStream_t stream);
PwStatus launch_warp(const PwPrefillAttention& op, cudaStream_t stream);
PwStatus launch_plain(const PwPrefillAttention& op, cudaStream_t stream);

}  // namespace pw::prefill
