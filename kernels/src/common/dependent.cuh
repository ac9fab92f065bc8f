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

enum class EarlyStart { kUnknown, kNever, kAlways };

// Whether kernels are launched so: known after the first launch.
inline std::atomic<EarlyStart>& early_start() {
  static std::atomic<EarlyStart> answer{EarlyStart::kUnknown};
  return answer;
}

// Code for cards before Hopper cannot wait, and a Hopper card may run it too: what counts is what the kernel that was
// loaded was compiled for, and all kernels of the library were compiled for the same.
inline EarlyStart early_start_of(const void* kernel) {
  EarlyStart answer = early_start().load(std::memory_order_relaxed);
  if (answer == EarlyStart::kUnknown) {
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) return EarlyStart::kNever;
    answer = attributes.ptxVersion >= 90 ? EarlyStart::kAlways : EarlyStart::kNever;
    early_start().store(answer, std::memory_order_relaxed);
  }
  return answer;
}

// Launches a kernel that waits for the one before by itself.
template <class... Params, class... Args>
PwStatus launch_dependent(void (*kernel)(Params...), dim3 grid, dim3 block, PwStream stream, Args... args) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.stream = cuda_stream(stream);
  config.attrs = &attribute;
  config.numAttrs = early_start_of(reinterpret_cast<const void*>(kernel)) == EarlyStart::kAlways ? 1 : 0;
  return static_cast<PwStatus>(cudaLaunchKernelEx(&config, kernel, args...));
}

}  // namespace pw
