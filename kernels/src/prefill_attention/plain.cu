// Prefill attention without tensor cores, for shapes that the other kernels do not take: one warp for each query.
#include <cmath>

#include "common/launch.cuh"
#include "prefill_attention/tile.cuh"

namespace pw::prefill {
namespace {

constexpr int kMaxHeadDim = 256;
constexpr int kQueriesPerBlock = 8;

template <class T>
__device__ float to_float(T value) {
  return static_cast<float>(value);
}

__device__ float sum_over_warp(float value) {
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_xor_sync(0xffffffffu, value, distance);
  return value;
}

// A lane has the elements lane, lane + 32, ... of the head.
template <class T>
__global__ void plain_kernel(const __grid_constant__ PwPrefillAttention op) {
  constexpr int kMine = kMaxHeadDim / 32;
  const PwAttention& attention = op.attention;
  const PwKvView& kv = attention.kv;
  const int lane = threadIdx.x % 32;
  if (int(blockIdx.x) >= *op.num_tiles) return;
  const PwPrefillTile tile = op.tiles[blockIdx.x];
  const int query = blockIdx.y * kQueriesPerBlock + threadIdx.x / 32;
  const int token = query / attention.num_heads, head = query % attention.num_heads;
  if (token >= tile.num_tokens) return;

  const T* q = static_cast<const T*>(attention.q) + (tile.first_token + token) * attention.q_stride + head * kv.head_dim;
  float mine[kMine], sums[kMine] = {};
  for (int i = 0; i < kMine; ++i) mine[i] = lane + 32 * i < kv.head_dim ? to_float(q[lane + 32 * i]) : 0.0f;

  const int kv_head = head / (attention.num_heads / kv.num_kv_heads);
  const int64_t values_offset = int64_t(kv.num_kv_heads) * kv.block_size * kv.head_dim;
  const int32_t* table = attention.tables + int64_t(tile.slot) * attention.max_blocks_per_slot;
  const Context context = context_of({0, 1, tile.first_position + token, 0}, attention.sliding_window);
  float largest = -INFINITY, total = 0.0f;
  for (int position = context.begin; position < context.end; ++position) {
    const T* keys = static_cast<const T*>(kv.pool) + table[position / kv.block_size] * kv.block_stride + kv.layer_offset +
                    (int64_t(kv_head) * kv.block_size + position % kv.block_size) * kv.head_dim;
    float product = 0.0f;
    for (int i = 0; i < kMine; ++i) {
      if (lane + 32 * i < kv.head_dim) product += mine[i] * to_float(keys[lane + 32 * i]);
    }
    const float score = sum_over_warp(product) * attention.scale;
    const float now_largest = fmaxf(largest, score);
    const float correction = expf(largest - now_largest), term = expf(score - now_largest);
    largest = now_largest;
    total = total * correction + term;
    for (int i = 0; i < kMine; ++i) {
      if (lane + 32 * i < kv.head_dim) sums[i] = sums[i] * correction + term * to_float(keys[values_offset + lane + 32 * i]);
    }
  }
  T* out = static_cast<T*>(attention.out) +
           (int64_t(tile.first_token + token) * attention.num_heads + head) * kv.head_dim;
  for (int i = 0; i < kMine; ++i) {
    if (lane + 32 * i < kv.head_dim) out[lane + 32 * i] = static_cast<T>(sums[i] / total);
  }
}

}  // namespace

PwStatus launch_plain(const PwPrefillAttention& op, cudaStream_t stream) {
  const PwKvView& kv = op.attention.kv;
  if (kv.head_dim > kMaxHeadDim) return PW_UNSUPPORTED;
  const int queries = op.max_tile_tokens * op.attention.num_heads;
  const dim3 grid(op.max_tiles, (queries + kQueriesPerBlock - 1) / kQueriesPerBlock);
  return with_element(op.attention.element, [&](auto type) -> PwStatus {
    using T = typename decltype(type)::type;
    plain_kernel<T><<<grid, kQueriesPerBlock * 32, 0, stream>>>(op);
    return launched();
  });
}

}  // namespace pw::prefill
