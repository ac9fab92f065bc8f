// The library as a whole: its version, whether the device can run it, and the names of statuses.
#include <cuda_runtime.h>

#include "pagewise/abi.h"

namespace pw {
namespace {

// Stands for all kernels: they are compiled for the same cards.
__global__ void any_kernel() {}

}  // namespace
}  // namespace pw

extern "C" uint32_t pw_abi_version(void) { return PW_ABI_VERSION; }

extern "C" PwStatus pw_check_device(void) {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, pw::any_kernel);
}

extern "C" const char* pw_status_name(PwStatus status) {
  switch (status) {
    case PW_OK:
      return "no error";
    case PW_UNSUPPORTED:
      return "the kernel library has no kernel for this combination";
    case PW_INVALID:
      return "a size, a stride or an alignment is out of range";
    default:
      return status > 0 ? cudaGetErrorString(cudaError_t(status)) : "unknown status";
  }
}
