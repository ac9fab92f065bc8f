// The library as a whole: its version, whether the device can run it, and the names of statuses.
#include <cuda.h>
#include <cuda_runtime.h>

#include "pagewise/abi.h"

namespace pw {
namespace {

// Stands for all kernels: they are compiled for the same cards.
__global__ void any_kernel() {}

// Through the driver's table of entry points, so that the library does not link the driver.
cudaError_t loading_mode(CUmoduleLoadingMode* mode) {
  using GetLoadingMode = CUresult (*)(CUmoduleLoadingMode*);
  constexpr unsigned kSinceVersion = 11070;
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuModuleGetLoadingMode", &entry, kSinceVersion, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorInsufficientDriver;
  return reinterpret_cast<GetLoadingMode>(entry)(mode) == CUDA_SUCCESS ? cudaSuccess : cudaErrorInitializationError;
}

}  // namespace
}  // namespace pw

extern "C" uint32_t pw_abi_version(void) { return PW_ABI_VERSION; }

extern "C" PwStatus pw_load_all(void) {
  // With eager loading the runtime loads all of the library before the first call that needs a context.
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, pw::any_kernel);
  if (error != cudaSuccess) return error;
  CUmoduleLoadingMode mode;
  error = pw::loading_mode(&mode);
  if (error != cudaSuccess) return error;
  return mode == CU_MODULE_EAGER_LOADING ? PW_OK : PW_LAZY;
}

extern "C" const char* pw_status_name(PwStatus status) {
  switch (status) {
    case PW_OK:
      return "no error";
    case PW_UNSUPPORTED:
      return "the kernel library has no kernel for this combination";
    case PW_INVALID:
      return "a size, a stride or an alignment is out of range";
    case PW_LAZY:
      return "kernels are loaded lazily: CUDA_MODULE_LOADING=EAGER was not set before the first CUDA call";
    default:
      return status > 0 ? cudaGetErrorString(cudaError_t(status)) : "unknown status";
  }
}
