// Prefill attention for Hopper: which instances there are.
#include "prefill_attention/warpgroup_launch.cuh"

namespace pw::prefill {

PwStatus launch_warpgroup(const PwPrefillAttention& op, cudaStream_t stream) {
  return with_half_element(op.attention.element, [&](auto type) -> PwStatus {
    using T = typename decltype(type)::type;
    // Both numbers of warpgroups give a row the same bits: they multiply the same tiles of 128 keys in the same order.
    const bool is_narrow = op.max_tile_tokens * group_of(op.attention) <= kWarpgroupRows;
    switch (op.attention.kv.head_dim) {
      case 64:
        return is_narrow ? launch_warpgroup_kernel<T, WarpgroupShape<64, 128, 6, 1>>(op, stream)
                         : launch_warpgroup_kernel<T, WarpgroupShape<64, 128, 8, 2>>(op, stream);
      case 128:
        return is_narrow ? launch_warpgroup_kernel<T, WarpgroupShape<128, 128, 3, 1>>(op, stream)
                         : launch_warpgroup_kernel<T, WarpgroupShape<128, 128, 6, 2>>(op, stream);
      default:
        return PW_UNSUPPORTED;
    }
  });
}

}  // namespace pw::prefill
