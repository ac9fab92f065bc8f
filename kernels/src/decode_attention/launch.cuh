// How the kernel on tensor cores is launched for a shape of heads. Host code.
#pragma once

#include <algorithm>

#include "kernel.cuh"

namespace pw::decode_attention {

inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}

inline int log2_of(int power_of_two) {
  int log2 = 0;
  while (1 << log2 < power_of_two) log2 += 1;
  return log2;
}

template <class T, int kDim, int kHeadTiles, class S>
PwStatus launch_shape(const PwDecodeAttention& op, PwStream stream) {
  const Passes passes = Passes::of(op.attention, kHeadTiles * kProductHeads);
  const int max_heads = std::min(passes.group, passes.heads);
  const Launch launch = {op, passes, log2_of(op.attention.kv.block_size), op.attention.scale * kLog2E, max_heads};
  auto* const kernel = decode<T, kDim, kHeadTiles, S>;
  const int bytes = shared_bytes<T, kDim, S>(max_heads);
  const cudaError_t error = allow_shared(reinterpret_cast<const void*>(kernel), bytes);
  if (error != cudaSuccess) return static_cast<PwStatus>(error);
  const int64_t units = int64_t(op.max_items) * op.attention.kv.num_kv_heads * passes.count;
  const int64_t resident = int64_t(device_attribute(cudaDevAttrMultiProcessorCount)) * S::kBlocks;
  const Grid grid = {dim3(unsigned(std::min(units, resident))), dim3(S::kThreads), 1, bytes};
  return launch_dependent(kernel, grid, stream, launch);
}

// More than the kernel declares by itself.
constexpr int kStaticBytes = 64;

// For heads of 64; for heads of 128; and for the latter where a block may have no more than 99 KB of shared memory.
using Small = Shape<4, 4, 2>;
using Wide = Shape<4, 2, 3>;
using Narrow = Shape<4, 2, 2>;

// Two tiles of heads need more registers and more room for parts, so they leave one stage to that.
template <class T, int kDim>
PwStatus launch_fast(const PwDecodeAttention& op, PwStream stream) {
  const bool has_one_tile = op.attention.num_heads / op.attention.kv.num_kv_heads <= kProductHeads;
  if (!has_one_tile) return launch_shape<T, kDim, 2, Narrow>(op, stream);
  if constexpr (kDim == 64) {
    return launch_shape<T, kDim, 1, Small>(op, stream);
  } else {
    const int needed_bytes = shared_bytes<T, kDim, Wide>(kProductHeads) + kStaticBytes;
    const bool is_wide = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin) >= needed_bytes;
    return is_wide ? launch_shape<T, kDim, 1, Wide>(op, stream) : launch_shape<T, kDim, 1, Narrow>(op, stream);
  }
}

}  // namespace pw::decode_attention
