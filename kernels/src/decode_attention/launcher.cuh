#pragma once

#include <algorithm>

#include "common/dependent.cuh"
#include "kernel.cuh"

namespace pw::decode_attention {

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

template <class T, int kDim, int kHeadTiles, class S>
PwStatus launch_decode(const PwDecodeAttention& op, PwStream stream, int ahead = 4) {
  Launch launch;
  launch.op = op;
  launch.passes = Passes::of(op.attention, kHeadTiles * kProductHeads);
  launch.max_heads = std::min(launch.passes.group, launch.passes.heads);
  launch.log2_block = 0;
  while (1 << launch.log2_block < op.attention.kv.block_size) launch.log2_block += 1;
  launch.scale = op.attention.scale * kLog2E;
  launch.ahead = ahead;
  auto* kernel = decode<T, kDim, kHeadTiles, S>;
  const int bytes = shared_bytes<T, kDim, S>(launch.max_heads);
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return static_cast<PwStatus>(error);
  const int64_t units = int64_t(op.max_items) * op.attention.kv.num_kv_heads * launch.passes.count;
  const int64_t resident = int64_t(device_attribute(cudaDevAttrMultiProcessorCount)) * S::kBlocks;
  const Grid grid = {dim3(unsigned(std::min(units, resident))), dim3(S::kThreads), 1, bytes};
  return launch_dependent(kernel, grid, stream, launch);
}

}  // namespace pw::decode_attention
