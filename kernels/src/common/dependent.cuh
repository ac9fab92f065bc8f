// Programmatic dependent launch: a kernel's blocks are brought to their places while the kernel before still runs, and
// wait there. A decode step is hundreds of kernels of a few microseconds, so the microsecond between two of them counts.
//
// A kernel launched so calls `wait_for_previous` in every thread before it touches anything that a kernel may have written
// and before any thread returns, and only then `let_next_start`. Hence at most two kernels overlap, and what ran before
// those two is complete. Weights may be read before the wait.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

#include "common/launch.cuh"
#include "common/target.cuh"

namespace pw {

__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel may take the places that are left; it waits for this one's end before it reads.
__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Whether kernels are launched so at all: lab programs time both ways.
inline std::atomic<bool>& starts_early() {
  static std::atomic<bool> answer{true};
  return answer;
}

// How a kernel is spread over the device.
struct Grid {
  dim3 blocks;
  dim3 threads;
  // Blocks of a cluster, neighbours in x
  int cluster = 1;
  // Shared memory asked for at launch
  int shared_bytes = 0;
};

// Launches a kernel that waits for the one before by itself.
template <class... Params, class... Args>
PwStatus launch_dependent(void (*kernel)(Params...), const Grid& grid, PwStream stream, Args... args) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = size_t(grid.shared_bytes);
  config.stream = cuda_stream(stream);
  config.attrs = attributes;
  if (starts_early().load(std::memory_order_relaxed) && is_hopper_code(reinterpret_cast<const void*>(kernel))) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }
  if (grid.cluster > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = unsigned(grid.cluster);
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  }
  return static_cast<PwStatus>(cudaLaunchKernelEx(&config, kernel, args...));
}

// The same for single blocks without memory of their own.
template <class... Params, class... Args>
PwStatus launch_dependent(void (*kernel)(Params...), dim3 blocks, dim3 threads, PwStream stream, Args... args) {
  return launch_dependent(kernel, Grid{blocks, threads}, stream, args...);
}

}  // namespace pw
