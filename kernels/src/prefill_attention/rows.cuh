// Sixteen rows of a tile as a warp holds them: queries in, outputs out. The layouts are those of common/fragment.cuh.
#pragma once

#include "common/fragment.cuh"
#include "prefill_attention/tile.cuh"

namespace pw::prefill {

// What of a tile a warp has: the tile with its heads, and the warp's first row.
struct WarpRows {
  PwPrefillTile tile;
  int first_head;
  int group;
  int first_row;
};

// One row. Beyond the tile it stands for the last token once more, so that reads and masks need no special case.
struct Row {
  int token;
  int head;
  bool is_inside;
};

// Row g (i = 0) or g + 8 (i = 1) of lane 4 g + t.
__device__ __forceinline__ Row row_of(const WarpRows& rows, int i, int lane) {
  const int row = rows.first_row + lane / 4 + 8 * i;
  const int token = row / rows.group, last = rows.tile.num_tokens - 1;
  return {token < last ? token : last, rows.first_head + row % rows.group, token <= last};
}

// Of the two rows of a lane: the position, and where the output goes, as token * num_heads + head; -1 if nowhere.
struct RowPlaces {
  int position[2];
  int output[2];
};

__device__ __forceinline__ RowPlaces places_of(const WarpRows& rows, int num_heads, int lane) {
  RowPlaces places;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Row row = row_of(rows, i, lane);
    places.position[i] = rows.tile.first_position + row.token;
    places.output[i] = row.is_inside ? (rows.tile.first_token + row.token) * num_heads + row.head : -1;
  }
  return places;
}

// Asks for the queries of the rows, 16 bytes a lane at a time. They are not in the lanes where products want them until
// `arrange_queries`, so that whoever has other work meanwhile need not wait for the memory.
template <class T, int d>
__device__ __forceinline__ void load_queries(uint32_t (&queries)[d / 16][4], const PwAttention& op, const WarpRows& rows,
                                             int lane) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const Row row = row_of(rows, i, lane);
    const T* query = static_cast<const T*>(op.q) + (rows.tile.first_token + row.token) * op.q_stride + row.head * d;
#pragma unroll
    for (int j = 0; j < d / 32; ++j) {
      const uint4 piece = __ldg(reinterpret_cast<const uint4*>(query + 32 * j) + lane % 4);
      queries[2 * j + i][0] = piece.x;
      queries[2 * j + i][1] = piece.y;
      queries[2 * j + i][2] = piece.z;
      queries[2 * j + i][3] = piece.w;
    }
  }
}

// Queries become the left operands of n products.
template <int n>
__device__ __forceinline__ void arrange_queries(uint32_t (&queries)[n][4], int lane) {
#pragma unroll
  for (int j = 0; j < n; j += 2) {
    uint32_t(&low)[4] = queries[j];
    uint32_t(&high)[4] = queries[j + 1];
    transpose_quad(low, lane);
    transpose_quad(high, lane);
    const uint32_t left[4] = {low[0], high[0], low[1], high[1]};
    const uint32_t right[4] = {low[2], high[2], low[3], high[3]};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low[i] = left[i];
      high[i] = right[i];
    }
  }
}

// out = sums / total for the rows inside of the tile.
template <class T, int d>
__device__ __forceinline__ void store_rows(const PwAttention& op, const RowPlaces& places, const float (&sums)[d / 2],
                                           const float (&total)[2], int lane) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float factor = 1.0f / total[i];
    T* row = static_cast<T*>(op.out) + int64_t(places.output[i]) * d;
#pragma unroll
    for (int j = 0; j < d / 32; ++j) {
      uint32_t pairs[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float* pair = sums + 4 * (4 * j + k) + 2 * i;
        pairs[k] = pack_pair<T>(pair[0] * factor, pair[1] * factor);
      }
      transpose_quad(pairs, lane);
      if (places.output[i] >= 0) {
        reinterpret_cast<uint4*>(row + 32 * j)[lane % 4] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      }
    }
  }
}

}  // namespace pw::prefill
