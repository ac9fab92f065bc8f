// The plain kernel, for every head size, block size and element: one block for a unit of one query head, a lane for every
// 32nd element of a head, a warp for every fourth token.
#pragma once

#include <algorithm>

#include "common/dependent.cuh"
#include "common/reduce.cuh"
#include "finish.cuh"

namespace pw::decode_attention {

constexpr int kPlainWarps = 4;
constexpr int kMaxHeadDim = 512;

template <class T>
__device__ float load_float(const T* from) {
  return Bits<T>::to_float(Pack<T, 1>::load(from).words[0]);
}

template <class T, class Kv>
__global__ void __launch_bounds__(kPlainWarps* kWarp) decode_plain(const __grid_constant__ PwDecodeAttention op,
                                                                   const Passes passes) {
  constexpr int kElements = kMaxHeadDim / kWarp;  // of a lane, at most
  __shared__ float out[kPlainWarps][kMaxHeadDim];
  __shared__ float2 stats[kPlainWarps];
  wait_for_previous();
  let_next_start();
  const PwKvView& kv = op.attention.kv;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int head_dim = kv.head_dim;
  const float scale = op.attention.scale * kLog2E;
  const WarpParts parts = {out[0], stats, kPlainWarps, 1, kMaxHeadDim};
  const int count = num_units(op, passes);

  for (int index = blockIdx.x; index < count; index += gridDim.x) {
    const Unit unit = unit_at(op, passes, index);
    const int32_t* table = op.attention.tables + int64_t(unit.item.slot) * op.attention.max_blocks_per_slot;
    const T* q = static_cast<const T*>(op.attention.q) + unit.item.token * op.attention.q_stride +
                 int64_t(unit.first_head) * head_dim;
    float query[kElements], sums[kElements];
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      query[i] = i * kWarp + lane < head_dim ? load_float(q + i * kWarp + lane) : 0.0f;
      sums[i] = 0.0f;
    }
    float maximum = kMinusInfinity, sum = 0.0f;
    for (int token = unit.item.begin + warp; token < unit.item.end; token += kPlainWarps) {
      const int64_t row = int64_t(unit.kv_head) * kv.block_size + token % kv.block_size;
      const Kv* key = static_cast<const Kv*>(kv.pool) + table[token / kv.block_size] * kv.block_stride +
                      kv.layer_offset + row * head_dim;
      const Kv* value = key + int64_t(kv.num_kv_heads) * kv.block_size * head_dim;
      float score = 0.0f;
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        if (i * kWarp + lane < head_dim) score += query[i] * load_float(key + i * kWarp + lane);
      }
      score = warp_sum(score) * scale;
      const float larger = fmaxf(maximum, score);
      const float base = base_of(larger);
      const float rescale = power_of_two(maximum - base), weight = power_of_two(score - base);
      maximum = larger;
      sum = sum * rescale + weight;
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        if (i * kWarp + lane < head_dim) sums[i] = sums[i] * rescale + weight * load_float(value + i * kWarp + lane);
      }
    }
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      if (i * kWarp + lane < head_dim) out[warp][i * kWarp + lane] = sums[i];
    }
    if (lane == 0) stats[warp] = make_float2(maximum, sum);
    __syncthreads();
    finish<T, 1>(op, passes, unit, parts, head_dim);
    __syncthreads();
  }
}

template <class T, class Kv>
PwStatus launch_plain(const PwDecodeAttention& op, PwStream stream) {
  // Enough blocks to fill any card.
  constexpr int64_t kMaxBlocks = 4096;
  const int64_t units = int64_t(op.max_items) * op.attention.num_heads;
  const dim3 blocks(unsigned(std::min(units, kMaxBlocks)));
  return launch_dependent(decode_plain<T, Kv>, blocks, dim3(kPlainWarps * kWarp), stream, op, Passes::of(op.attention, 1));
}

}  // namespace pw::decode_attention
