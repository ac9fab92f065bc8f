// The entry point of prefill attention: checks the params and asks the kernels, the fastest first.
#include "common/launch.cuh"
#include "prefill_attention/tile.cuh"

namespace pw::prefill {
namespace {

bool is_aligned_to_16(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

bool is_valid(const PwPrefillAttention& op) {
  const PwAttention& attention = op.attention;
  const PwKvView& kv = attention.kv;
  const bool has_shape = op.max_tiles >= 0 && op.max_tile_tokens > 0 && kv.num_kv_heads > 0 && attention.num_heads > 0 &&
                         kv.head_dim > 0 && kv.block_size > 0 && attention.num_heads % kv.num_kv_heads == 0;
  return has_shape && attention.sliding_window >= 0 && is_aligned_to_16(attention.q) && is_aligned_to_16(attention.out) &&
         is_aligned_to_16(kv.pool) && is_aligned_to_16(op.tiles) && attention.q_stride >= attention.num_heads * kv.head_dim;
}

}  // namespace
}  // namespace pw::prefill

extern "C" int32_t pw_prefill_tile_tokens(int32_t num_heads, int32_t num_kv_heads, int32_t) {
  const int group = num_heads / num_kv_heads;
  return group < pw::prefill::kRows ? pw::prefill::kRows / group : 1;
}

extern "C" PwStatus pw_prefill_attention(const PwPrefillAttention* op, PwStream stream) {
  using namespace pw::prefill;
  if (!is_valid(*op)) return PW_INVALID;
  if (op->attention.element != op->attention.kv.element) return PW_UNSUPPORTED;
  if (op->max_tiles == 0) return PW_OK;
  for (const auto launch : {launch_warpgroup, launch_warp, launch_plain}) {
    const PwStatus status = launch(*op, pw::cuda_stream(stream));
    if (status != PW_UNSUPPORTED) return status;
  }
  return PW_UNSUPPORTED;
}
