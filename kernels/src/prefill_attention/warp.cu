// Launches the kernel of single warps.
#include "prefill_attention/warp.cuh"

#include "common/launch.cuh"

namespace pw::prefill {
namespace {

template <class T, int d>
PwStatus launch(const PwPrefillAttention& op, cudaStream_t stream) {
  constexpr int kKeys = 64;
  const auto kernel = warp_kernel<T, d, kKeys>;
  constexpr int kSharedBytes = sizeof(WarpShared<d, kKeys>);
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  const int group = group_of(op.attention);
  const int64_t grid = int64_t(op.max_tiles) * op.attention.kv.num_kv_heads;
  if (grid > INT32_MAX) return PW_INVALID;
  kernel<<<int(grid), kWarpThreads, kSharedBytes, stream>>>(WarpParams{op, group, op.attention.scale * kLog2E});
  return launched();
}

}  // namespace

PwStatus launch_warp(const PwPrefillAttention& op, cudaStream_t stream) {
  if (group_of(op.attention) > kRows || !queries_are_aligned(op.attention)) return PW_UNSUPPORTED;
  return with_half_element(op.attention.element, [&](auto type) -> PwStatus {
    using T = typename decltype(type)::type;
    switch (op.attention.kv.head_dim) {
      case 64:
        return launch<T, 64>(op, stream);
      case 128:
        return launch<T, 128>(op, stream);
      default:
        return PW_UNSUPPORTED;
    }
  });
}

}  // namespace pw::prefill
