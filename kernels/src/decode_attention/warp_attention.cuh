// Attention of up to 8 or 16 query heads to a tile of 16 tokens, by one warp on the tensor cores.
//
// Everything is transposed: scores [tokens][heads] = keys x queries, and out [dims][heads] += values x weights, so that the
// few query heads of a key-value head are the narrow side (8) of the products. A product's inner dimension may be numbered
// at will, and so may its rows: hence the lanes use the chunks of keys and values as a `StagedTile` gives them, and nothing
// is moved between lanes but the weights.
#pragma once

#include "common/mma_sync.cuh"
#include "part.cuh"
#include "ring.cuh"

namespace pw::decode_attention {

// Heads of one product.
constexpr int kProductHeads = 8;

// Transposes an [8][8] of 2-byte elements of which lane 4 g + c holds (g, 2c..2c + 2).
__device__ inline uint32_t transpose_8x8(uint32_t pair) {
  uint32_t transposed;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(pair));
  return transposed;
}

// Over the lanes with the same c.
template <class F>
__device__ float over_groups(float value, const F& f) {
#pragma unroll
  for (int distance = 4; distance < kWarp; distance *= 2) {
    value = f(value, __shfl_xor_sync(kAllLanes, value, distance));
  }
  return value;
}

// [head tile][a lane's four results of a product]: tokens g, g, g + 8, g + 8 of heads 2c, 2c + 1, 2c, 2c + 1.
template <int kHeadTiles>
using Scores = float[kHeadTiles][4];

template <class T, int kDim, int kHeadTiles>
class WarpAttention {
 public:
  // `queries` are those of `num_heads` heads, one after the other.
  __device__ WarpAttention(const T* queries, int num_heads) {
    const int g = threadIdx.x % kWarp / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
      const int head = t * kProductHeads + g;
      maxima_[t][0] = maxima_[t][1] = kMinusInfinity;
#pragma unroll
      for (int i = 0; i < StagedTile<T, kDim>::kKeyChunks; ++i) {
        queries_[t][i] = make_uint4(0, 0, 0, 0);
        if (head < num_heads) {
          queries_[t][i] = *reinterpret_cast<const uint4*>(queries + head * kDim + (4 * i + c) * 8);
        }
      }
    }
  }

  __device__ void score(const StagedTile<T, kDim>& tile, Scores<kHeadTiles>& scores) const {
    // Two chains, since a product waits for the one that it adds to.
    float even[kHeadTiles][4] = {}, odd[kHeadTiles][4] = {};
#pragma unroll
    for (int i = 0; i < StagedTile<T, kDim>::kKeyChunks; ++i) {
      const uint4 low = tile.keys(0, i), high = tile.keys(1, i);
      const uint32_t first[4] = {low.x, high.x, low.y, high.y}, second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int t = 0; t < kHeadTiles; ++t) {
        mma_sync<Sum::kAdd, T>(even[t], first, queries_[t][i].x, queries_[t][i].y);
        mma_sync<Sum::kAdd, T>(odd[t], second, queries_[t][i].z, queries_[t][i].w);
      }
    }
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
      for (int j = 0; j < 4; ++j) scores[t][j] = even[t][j] + odd[t][j];
    }
  }

  // Makes weights of scores times `scale`, and what was summed so far relative to the new maximum.
  __device__ void weigh(const Scores<kHeadTiles>& scores, float scale, uint32_t (&weights)[kHeadTiles][2]) {
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
      float rescale[2], weight[4];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float low = scores[t][h] * scale, high = scores[t][h + 2] * scale;
        const auto larger_of = [](float a, float b) { return fmaxf(a, b); };
        const float maximum = fmaxf(over_groups(fmaxf(low, high), larger_of), maxima_[t][h]);
        const float base = base_of(maximum);
        rescale[h] = power_of_two(maxima_[t][h] - base);
        maxima_[t][h] = maximum;
        weight[h] = power_of_two(low - base);
        weight[h + 2] = power_of_two(high - base);
        sums_[t][h] = sums_[t][h] * rescale[h] + (weight[h] + weight[h + 2]);
      }
      weights[t][0] = transpose_8x8(Bits<T>::of(weight[0], weight[1]));
      weights[t][1] = transpose_8x8(Bits<T>::of(weight[2], weight[3]));
#pragma unroll
      for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) out_[t][i][j] *= rescale[j % 2];
      }
    }
  }

  // `values(which, i)` as a tile's.
  template <class Values>
  __device__ void accumulate(const Values& values, const uint32_t (&weights)[kHeadTiles][2]) {
#pragma unroll
    for (int i = 0; i < StagedTile<T, kDim>::kValueChunks; ++i) {
      uint32_t words[4][4];
#pragma unroll
      for (int which = 0; which < 4; ++which) {
        const uint4 chunk = values(which, i);
        words[which][0] = chunk.x, words[which][1] = chunk.y, words[which][2] = chunk.z, words[which][3] = chunk.w;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        // Elements j and j + 4 of a chunk, each of two tokens side by side.
        const uint32_t halves = j % 2 == 0 ? 0x5410 : 0x7632;
        const int word = j / 2;
        const uint32_t a[4] = {
            __byte_perm(words[0][word], words[1][word], halves),
            __byte_perm(words[0][word + 2], words[1][word + 2], halves),
            __byte_perm(words[2][word], words[3][word], halves),
            __byte_perm(words[2][word + 2], words[3][word + 2], halves),
        };
#pragma unroll
        for (int t = 0; t < kHeadTiles; ++t) {
          mma_sync<Sum::kAdd, T>(out_[t][4 * i + j], a, weights[t][0], weights[t][1]);
        }
      }
    }
  }

  // Leaves this warp's part of each head: `out` is [heads][stride], `stats` is [heads].
  __device__ void leave(float* out, int stride, float2* stats, int num_heads) const {
    const int g = threadIdx.x % kWarp / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int t = 0; t < kHeadTiles; ++t) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float sum = over_groups(sums_[t][h], [](float a, float b) { return a + b; });
        const int head = t * kProductHeads + 2 * c + h;
        if (head >= num_heads) continue;
        if (g == 0) stats[head] = make_float2(maxima_[t][h], sum);
        float4* const to = reinterpret_cast<float4*>(out + head * stride);
#pragma unroll
        for (int i = 0; i < StagedTile<T, kDim>::kValueChunks; ++i) {
          const float(&o)[kDim / 16][4] = out_[t];
#pragma unroll
          for (int j = 0; j < 4; j += 2) {
            to[2 * (8 * i + g) + j / 2] =
                make_float4(o[4 * i][h + j], o[4 * i + 1][h + j], o[4 * i + 2][h + j], o[4 * i + 3][h + j]);
          }
        }
      }
    }
  }

 private:
  // Chunks 4i + c of head 8t + g.
  uint4 queries_[kHeadTiles][kDim / 32];
  // Of heads 8t + 2c and 8t + 2c + 1: elements j of chunk 8i + g, then elements 4 + j, for [t][4i + j].
  float out_[kHeadTiles][kDim / 16][4] = {};
  float maxima_[kHeadTiles][2];
  // Of this lane's tokens only.
  float sums_[kHeadTiles][2] = {};
};

}  // namespace pw::decode_attention
