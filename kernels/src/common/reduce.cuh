// Sums over a warp, a part of it, or a block. Every thread gets the sum, formed in the same order for a given number of
// threads.
#pragma once

namespace pw {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Over groups of `lanes` neighbouring lanes, a power of two. The whole warp takes part.
__device__ inline float group_sum(float value, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kAllLanes, value, distance);
  return value;
}

// Over a block of whole warps. Once per kernel: nothing guards `partial` against a second use.
__device__ inline float block_sum(float value, float (&partial)[kWarp]) {
  value = warp_sum(value);
  if (blockDim.x == kWarp) return value;
  const int lane = threadIdx.x % kWarp, num_warps = blockDim.x / kWarp;
  if (lane == 0) partial[threadIdx.x / kWarp] = value;
  __syncthreads();
  return warp_sum(lane < num_warps ? partial[lane] : 0.0f);
}

}  // namespace pw
