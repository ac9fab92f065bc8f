// Launches warpgroup_kernel, for whatever tile sizes: the map of the pool, the grid, the shared memory. Host code.
#pragma once

#include "common/dependent.cuh"
#include "prefill_attention/warpgroup.cuh"

namespace pw::prefill {

inline int log2_of(int power_of_two) {
  int log2 = 0;
  while (1 << log2 < power_of_two) ++log2;
  return log2;
}

// Whether the copy engine can bring boxes of this pool, and the rows of a group fit.
inline bool warpgroups_take(const PwAttention& op) {
  const PwKvView& kv = op.kv;
  const int64_t head_elements = int64_t(kv.block_size) * kv.head_dim;
  return (kv.block_size & (kv.block_size - 1)) == 0 && kv.block_size >= 16 && kv.block_size <= 256 &&
         group_of(op) <= kRows && queries_are_aligned(op) && kv.block_stride % head_elements == 0 &&
         kv.layer_offset % head_elements == 0 && kv.num_blocks * (kv.block_stride / head_elements) <= INT32_MAX;
}

// What a launcher must know of a kernel on the present device. The kernel is empty where the library was compiled for other
// cards, which a Hopper card may run too: what counts is what the loaded code was compiled for.
struct Ability {
  bool takes_warpgroups;
  int num_multiprocessors;
};

inline cudaError_t ability_of(const void* kernel, int shared_bytes, Ability* ability) {
  int device;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&ability->num_multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  cudaFuncAttributes attributes;
  error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) return error;
  ability->takes_warpgroups = attributes.ptxVersion >= 90;
  if (!ability->takes_warpgroups || attributes.maxDynamicSharedSizeBytes >= shared_bytes) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
}

template <class T, class Shape>
PwStatus launch_warpgroup_kernel(const PwPrefillAttention& op, cudaStream_t stream) {
  const auto kernel = warpgroup_kernel<T, Shape>;
  constexpr int n = Shape::n, kSharedBytes = sizeof(WarpgroupShared<Shape>);
  Ability ability;
  const cudaError_t error = ability_of(reinterpret_cast<const void*>(kernel), kSharedBytes, &ability);
  if (error != cudaSuccess) return error;
  if (!ability.takes_warpgroups || !warpgroups_take(op.attention)) return PW_UNSUPPORTED;

  const PwKvView& kv = op.attention.kv;
  const int64_t head_elements = int64_t(kv.block_size) * kv.head_dim;
  WarpgroupParams params;
  params.op = op;
  params.group = group_of(op.attention);
  params.scale_log2 = op.attention.scale * kLog2E;
  params.pool.box_tokens = kv.block_size < n ? kv.block_size : n;
  params.pool.log2_block_size = log2_of(kv.block_size);
  params.pool.block_heads = int(kv.block_stride / head_elements);
  params.pool.keys_head = int(kv.layer_offset / head_elements);
  params.pool.values_head = params.pool.keys_head + kv.num_kv_heads;

  BoxTensor pool;
  pool.data = kv.pool;
  pool.element = kv.element;
  pool.dims[0] = kv.head_dim;
  pool.dims[1] = kv.block_size;
  pool.dims[2] = uint64_t(kv.num_blocks) * params.pool.block_heads;
  pool.strides[0] = kv.head_dim;
  pool.strides[1] = head_elements;
  pool.box[0] = 64;
  pool.box[1] = params.pool.box_tokens;
  pool.box[2] = 1;
  CUtensorMap map;
  const PwStatus status = encode_tensor_map(pool, &map);
  if (status != PW_OK) return status;

  const int64_t max_items = int64_t(op.max_tiles) * kv.num_kv_heads;
  const int places = ability.num_multiprocessors * Shape::kBlocksPerProcessor;
  Grid grid{dim3(unsigned(max_items < places ? max_items : places)), dim3(Shape::kThreads)};
  grid.shared_bytes = kSharedBytes;
  return launch_dependent(kernel, grid, stream, map, params);
}

}  // namespace pw::prefill
