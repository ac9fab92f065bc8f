// Copies of boxes of a tensor by the copy engine (sm_90), and the maps that describe tensors to it.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "common/mbarrier.cuh"
#include "pagewise/abi.h"

namespace pw {

// A tensor of three dimensions, the innermost dense, and the box that one copy brings; all in elements. A box of 64 elements
// of 2 bytes in the innermost dimension lands as rows of 128 bytes whose 16-byte pieces are permuted by the row number
// modulo 8 ("128-byte swizzle"), as the tensor cores of a warpgroup read them. What lies outside of the tensor arrives as zeros.
struct BoxTensor {
  const void* data;
  PwElement element;
  uint64_t dims[3];
  // Of the second and third dimension
  uint64_t strides[2];
  uint32_t box[3];
};

// Through the driver's table of entry points, so that the library does not link the driver.
inline PwStatus encode_tensor_map(const BoxTensor& tensor, CUtensorMap* map) {
  using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*, const cuuint64_t*,
                              const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                              CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  constexpr unsigned kSinceVersion = 12000;
  constexpr uint64_t kElementBytes = 2;
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, kSinceVersion, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorInsufficientDriver;
  const auto type = tensor.element == PW_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  const cuuint64_t stride_bytes[2] = {tensor.strides[0] * kElementBytes, tensor.strides[1] * kElementBytes};
  const cuuint64_t dims[3] = {tensor.dims[0], tensor.dims[1], tensor.dims[2]};
  const cuuint32_t box[3] = {tensor.box[0], tensor.box[1], tensor.box[2]};
  const cuuint32_t every[3] = {1, 1, 1};
  const CUresult result = reinterpret_cast<Encode>(entry)(
      map, type, 3, const_cast<void*>(tensor.data), dims, stride_bytes, box, every, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? PW_OK : PW_INVALID;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ __forceinline__ void prefetch_tensor_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Brings the box that begins at (x, y, z) to `destination`; its bytes count on `barrier`. Both are shared addresses.
__device__ __forceinline__ void copy_box(uint32_t destination, const CUtensorMap* map, uint32_t barrier, int x, int y,
                                         int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::
          "r"(destination),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}
__device__ __forceinline__ void copy_box(uint32_t destination, const CUtensorMap* map, uint64_t* barrier, int x, int y,
                                         int z) {
  copy_box(destination, map, shared_address(barrier), x, y, z);
}

// The same to several blocks of the cluster, those whose bits are set in `blocks`: to the same place in the shared memory of
// each, its bytes counting on the barrier at the same place as `barrier`.
__device__ __forceinline__ void copy_box_to_blocks(uint32_t destination, const CUtensorMap* map, uint32_t barrier, int x,
                                                   int y, int z, uint32_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "h"(uint16_t(blocks))
      : "memory");
}

#endif

}  // namespace pw
