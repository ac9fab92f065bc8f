// What every launcher shares: the answer to a launch, and the dispatch over elements. Host code; knows no op.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <atomic>

#include "pagewise/abi.h"

namespace pw {

// Of the launch just made.
inline PwStatus launched() { return static_cast<PwStatus>(cudaGetLastError()); }

// Lets a kernel's launches ask for so much shared memory. The limit belongs to the kernel, not to the launch, so it is only
// raised, by one thread at a time: another one's launch may need more than this one's.
inline cudaError_t allow_shared(const void* kernel, int bytes) {
  static std::atomic_flag busy = ATOMIC_FLAG_INIT;
  while (busy.test_and_set(std::memory_order_acquire)) {
  }
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaSuccess && attributes.maxDynamicSharedSizeBytes < bytes) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  }
  busy.clear(std::memory_order_release);
  return error;
}

inline cudaStream_t cuda_stream(PwStream stream) { return reinterpret_cast<cudaStream_t>(stream); }

template <class T>
struct Type {
  using type = T;
};

// Calls `f(Type<T>{})` with the C++ type of a 2-byte element; PW_UNSUPPORTED for others.
template <class F>
PwStatus with_half_element(PwElement element, F&& f) {
  switch (element) {
    case PW_F16:
      return f(Type<__half>{});
    case PW_BF16:
      return f(Type<__nv_bfloat16>{});
    default:
      return PW_UNSUPPORTED;
  }
}

// The same with f32.
template <class F>
PwStatus with_element(PwElement element, F&& f) {
  if (element == PW_F32) return f(Type<float>{});
  return with_half_element(element, static_cast<F&&>(f));
}

}  // namespace pw
