// Which cards the loaded kernels were compiled for. Host code.
#pragma once

#include <cuda_runtime.h>

#include <atomic>

namespace pw {

// Whether this kernel may use what is new in Hopper. A Hopper card may also run code for earlier ones, so what counts is what
// the loaded kernel was compiled for; all kernels of the library were compiled for the same, so the first answer is kept.
inline bool is_hopper_code(const void* kernel) {
  enum Answer { kUnknown, kNo, kYes };
  static std::atomic<int> answer{kUnknown};
  int known = answer.load(std::memory_order_relaxed);
  if (known == kUnknown) {
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) return false;
    known = attributes.ptxVersion >= 90 ? kYes : kNo;
    answer.store(known, std::memory_order_relaxed);
  }
  return known == kYes;
}

}  // namespace pw
