// Masks and the online softmax on the scores that a warp holds of its sixteen rows (Milakov and Gimelshein, 2018).
//
// Score 4 j + 2 i + k of lane 4 g + t belongs to the lane's row i and to column 8 j + 2 t + k of the tile of keys.
#pragma once

#include <cmath>

#include "prefill_attention/rows.cuh"

namespace pw::prefill {

// The largest score and the sum so far of a lane's two rows. The sum is of the lane's own columns until `row_sums`.
struct Statistics {
  float largest[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};
};

__device__ __forceinline__ int column_of(int score, int lane) { return 8 * (score / 4) + 2 * (lane % 4) + (score & 1); }

template <int n>
__device__ __forceinline__ void mask_later(float (&scores)[n], const RowPlaces& rows, int first_column, int lane) {
  const int last[2] = {rows.position[0] - first_column, rows.position[1] - first_column};
#pragma unroll
  for (int i = 0; i < n; ++i) {
    if (column_of(i, lane) > last[(i >> 1) & 1]) scores[i] = -INFINITY;
  }
}

template <int n>
__device__ __forceinline__ void mask_earlier(float (&scores)[n], const RowPlaces& rows, int first_column, int window, int lane) {
  const int first[2] = {rows.position[0] + 1 - window - first_column, rows.position[1] + 1 - window - first_column};
#pragma unroll
  for (int i = 0; i < n; ++i) {
    if (column_of(i, lane) < first[(i >> 1) & 1]) scores[i] = -INFINITY;
  }
}

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Scores become the terms 2^(scale_log2 (score - largest)), and what was summed before is to be multiplied by `correction`.
// A row all of whose columns so far were masked has a largest score of -inf, and its terms are 0. A tile whose columns are all
// masked changes no sum: its terms are 0 and the correction is 2^0, which is why the product in it must not be fused with
// the difference; or it is 0, where all sums are still 0.
template <int n>
__device__ __forceinline__ void online_softmax(float (&scores)[n], Statistics& statistics, float scale_log2,
                                               float (&correction)[2]) {
#pragma unroll
  for (int row = 0; row < 2; ++row) {
    float largest = statistics.largest[row];
#pragma unroll
    for (int i = 0; i < n; i += 4) {
      largest = fmaxf(largest, fmaxf(scores[i + 2 * row], scores[i + 2 * row + 1]));
    }
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
    const float offset = largest == -INFINITY ? 0.0f : __fmul_rn(largest, scale_log2);
    correction[row] = exp2_approx(__fsub_rn(__fmul_rn(statistics.largest[row], scale_log2), offset));
    statistics.largest[row] = largest;
    float sum = statistics.sum[row] * correction[row];
#pragma unroll
    for (int i = 0; i < n; i += 4) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        float& score = scores[i + 2 * row + k];
        score = exp2_approx(score * scale_log2 - offset);
        sum += score;
      }
    }
    statistics.sum[row] = sum;
  }
}

// Sums of whole rows.
__device__ __forceinline__ void row_sums(Statistics& statistics) {
#pragma unroll
  for (float& sum : statistics.sum) {
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  }
}

template <int d>
__device__ __forceinline__ void scale_rows(float (&sums)[d], const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < d; ++i) sums[i] *= factor[(i >> 1) & 1];
}

// Terms, rounded, as the left operands of products with the values.
template <class T, int n>
__device__ __forceinline__ void round_terms(uint32_t (&rounded)[n / 8][4], const float (&terms)[n]) {
#pragma unroll
  for (int i = 0; i < n / 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) rounded[i][j] = pack_pair<T>(terms[8 * i + 2 * j], terms[8 * i + 2 * j + 1]);
  }
}

}  // namespace pw::prefill
