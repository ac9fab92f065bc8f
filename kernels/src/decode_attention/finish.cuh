// How the parts of a context become a result: those of a block's warps are added, then those of a token's splits, always in
// the same order, so that the same parts give the same bits whoever comes last.
#pragma once

#include "part.cuh"
#include "unit.cuh"

namespace pw::decode_attention {

// Where a block's warps leave their parts, in shared memory: out [warps][heads][stride] and stats [warps][heads].
struct WarpParts {
  float* out;
  float2* stats;
  int num_warps;
  int num_heads;
  int stride;
};

// Of the whole block: adds the warps' parts of the unit, into the token's result or, if the token has several splits, into
// the unit's place among the partial results.
template <class T, int kWidth>
__device__ void finish_unit(const PwDecodeAttention& op, const Unit& unit, const WarpParts& parts, int head_dim) {
  const int num_heads = op.attention.num_heads, vectors = head_dim / kWidth;
  T* const out = static_cast<T*>(op.attention.out) + int64_t(unit.item.token) * num_heads * head_dim;
  const int64_t partial_row = int64_t(unit.item.first_partial + unit.item.split) * num_heads;

  for (int index = threadIdx.x; index < unit.num_heads * vectors; index += blockDim.x) {
    const int head = index / vectors, element = index % vectors * kWidth, whole_head = unit.first_head + head;
    Part<kWidth> part;
    for (int warp = 0; warp < parts.num_warps; ++warp) {
      const int row = warp * parts.num_heads + head;
      part.add(parts.stats[row], Pack<float, kWidth>::load(parts.out + row * parts.stride + element));
    }
    if (unit.item.num_splits == 1) {
      part.store_result(out + int64_t(whole_head) * head_dim + element);
      continue;
    }
    const int64_t row = partial_row + whole_head;
    Pack<float, kWidth>::of(part.out).store(op.partial_out + row * head_dim + element);
    if (element == 0) reinterpret_cast<float2*>(op.partial_stats)[row] = make_float2(part.maximum, part.sum);
  }
}

// Whether all other blocks that work on the unit's token and key-value head have come here before: `arrivals` of them in
// all. What they had written by then is seen.
__device__ inline bool is_last(const PwDecodeAttention& op, const Unit& unit, int arrivals) {
  __shared__ bool answer;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int* const counter = op.counters + int64_t(unit.item.counter) * op.attention.kv.num_kv_heads + unit.kv_head;
    answer = atomicAdd(counter, 1) == arrivals - 1;
    if (answer) *counter = 0;
  }
  __syncthreads();
  __threadfence();
  return answer;
}

// Of the whole block: adds the partial results of the token's splits, for all query heads of the key-value head.
template <class T, int kWidth>
__device__ void finish_token(const PwDecodeAttention& op, const Unit& unit, int group, int head_dim) {
  const int num_heads = op.attention.num_heads, vectors = head_dim / kWidth;
  T* const out = static_cast<T*>(op.attention.out) + int64_t(unit.item.token) * num_heads * head_dim;
  for (int index = threadIdx.x; index < group * vectors; index += blockDim.x) {
    const int head = unit.kv_head * group + index / vectors, element = index % vectors * kWidth;
    Part<kWidth> part;
#pragma unroll 4
    for (int split = 0; split < unit.item.num_splits; ++split) {
      const int64_t row = int64_t(unit.item.first_partial + split) * num_heads + head;
      part.add(reinterpret_cast<const float2*>(op.partial_stats)[row],
               Pack<float, kWidth>::load(op.partial_out + row * head_dim + element));
    }
    part.store_result(out + int64_t(head) * head_dim + element);
  }
}

// Both, after the warps' parts are written and the block has synchronised.
template <class T, int kWidth>
__device__ void finish(const PwDecodeAttention& op, const Passes& passes, const Unit& unit, const WarpParts& parts,
                       int head_dim) {
  finish_unit<T, kWidth>(op, unit, parts, head_dim);
  if (unit.item.num_splits == 1) return;
  if (is_last(op, unit, unit.item.num_splits * passes.count)) {
    finish_token<T, kWidth>(op, unit, passes.group, head_dim);
  }
}

}  // namespace pw::decode_attention
