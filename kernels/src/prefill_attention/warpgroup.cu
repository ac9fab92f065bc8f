// Prefill attention for Hopper: which instances there are.
#include "prefill_attention/warpgroup_launch.cuh"

namespace pw::prefill {

PwStatus launch_warpgroup(const PwPrefillAttention& op, cudaStream_t stream) {
  return with_half_element(op.attention.element, [&](auto type) -> PwStatus {
    using T = typename decltype(type)::type;
    switch (op.attention.kv.head_dim) {
      case 64:
        return launch_warpgroup_kernel<T, 64, 128, 8, true>(op, stream);
      case 128:
        return launch_warpgroup_kernel<T, 128, 128, 6, true>(op, stream);
      default:
        return PW_UNSUPPORTED;
    }
  });
}

}  // namespace pw::prefill
