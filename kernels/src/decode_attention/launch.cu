// Decode attention's entry points: which kernel a shape gets, and how long splits are.
#include <type_traits>

#include "common/geometry.cuh"
#include "common/launch.cuh"
#include "generic.cuh"
#include "launcher.cuh"

namespace pw::decode_attention {
namespace {

bool is_multiple_of_8(int64_t value) { return value % 8 == 0; }

PwStatus check(const PwDecodeAttention& op) {
  const PwKvView& kv = op.attention.kv;
  if (kv.num_kv_heads <= 0 || kv.head_dim <= 0 || kv.block_size <= 0 || op.max_items < 0) return PW_INVALID;
  if (op.attention.num_heads <= 0 || op.attention.num_heads % kv.num_kv_heads != 0) return PW_INVALID;
  if (!is_aligned(op.items)) return PW_INVALID;
  if (kv.head_dim > kMaxHeadDim) return PW_UNSUPPORTED;
  return PW_OK;
}

// Whether the tensor cores' kernel takes it: 16 tokens of a head lie together, and 16 bytes are always aligned.
bool is_fast(const PwDecodeAttention& op) {
  const PwAttention& attention = op.attention;
  const PwKvView& kv = attention.kv;
  return attention.element == kv.element && (kv.head_dim == 64 || kv.head_dim == 128) && kv.block_size >= kTileTokens &&
         (kv.block_size & (kv.block_size - 1)) == 0 && is_multiple_of_8(attention.q_stride) &&
         is_multiple_of_8(kv.block_stride) && is_multiple_of_8(kv.layer_offset) && is_aligned(attention.q) &&
         is_aligned(attention.out) && is_aligned(kv.pool) && is_aligned(op.partial_out) && is_aligned(op.partial_stats);
}

template <class T, int kDim>
PwStatus launch_fast(const PwDecodeAttention& op, PwStream stream) {
  if (op.attention.num_heads / op.attention.kv.num_kv_heads > kProductHeads) {
    return launch_decode<T, kDim, 2, Shape<4, 2, 2>>(op, stream, 2);
  }
  if constexpr (kDim == 64) {
    return launch_decode<T, kDim, 1, Shape<4, 4, 2>>(op, stream, 0);
  } else {
    return launch_decode<T, kDim, 1, Shape<4, 2, 3>>(op, stream, 2);
  }
}

template <class T, class Kv>
PwStatus launch_generic(const PwDecodeAttention& op, PwStream stream) {
  const Passes passes = Passes::of(op.attention, 1);
  const int64_t units = int64_t(op.max_items) * op.attention.num_heads;
  const int processors = device_attribute(cudaDevAttrMultiProcessorCount);
  const int grid = int(units < processors * 8 ? units : processors * 8);
  return launch_dependent(decode_generic<T, Kv>, dim3(unsigned(grid)), dim3(kGenericWarps * 32), stream, op, passes);
}

}  // namespace
}  // namespace pw::decode_attention

extern "C" PwStatus pw_decode_attention(const PwDecodeAttention* op, PwStream stream) {
  using namespace pw;
  using namespace pw::decode_attention;
  const PwStatus status = check(*op);
  if (status != PW_OK || op->max_items == 0) return status;
  if (!is_fast(*op) || op->attention.element == PW_F32) {
    return with_element(op->attention.element, [&](auto element) {
      using T = typename decltype(element)::type;
      return with_element(op->attention.kv.element, [&](auto kv_element) {
        return launch_generic<T, typename decltype(kv_element)::type>(*op, stream);
      });
    });
  }
  return with_half_element(op->attention.element, [&](auto element) {
    using T = typename decltype(element)::type;
    return op->attention.kv.head_dim == 64 ? launch_fast<T, 64>(*op, stream) : launch_fast<T, 128>(*op, stream);
  });
}

extern "C" int32_t pw_decode_split_tokens(int32_t num_tokens) {
  constexpr int32_t kStep = 256;
  const int32_t steps = (num_tokens + kStep - 1) / kStep;
  const int32_t per_split = (steps + PW_MAX_SPLITS - 1) / PW_MAX_SPLITS;
  return kStep * (per_split > 1 ? per_split : 1);
}
