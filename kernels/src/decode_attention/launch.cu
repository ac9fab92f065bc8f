// Decode attention's entry points: which kernel a shape gets, and how long splits are.
#include "common/geometry.cuh"
#include "decode_attention/launch.cuh"
#include "decode_attention/plain.cuh"

namespace pw::decode_attention {
namespace {

PwStatus check(const PwDecodeAttention& op) {
  const PwAttention& attention = op.attention;
  const PwKvView& kv = attention.kv;
  if (kv.num_kv_heads <= 0 || kv.head_dim <= 0 || kv.block_size <= 0 || op.max_items < 0) return PW_INVALID;
  if (attention.num_heads <= 0 || attention.num_heads % kv.num_kv_heads != 0) return PW_INVALID;
  // At most one more than fits is asked for by each block.
  if (int64_t(op.max_items) * attention.num_heads > INT32_MAX / 2) return PW_INVALID;
  if (!is_aligned(op.items)) return PW_INVALID;
  return kv.head_dim > kMaxHeadDim ? PW_UNSUPPORTED : PW_OK;
}

// Whether the tensor cores' kernel takes it: 16 tokens of a head lie together, and accesses of 16 bytes are aligned.
bool is_fast(const PwDecodeAttention& op) {
  const PwAttention& attention = op.attention;
  const PwKvView& kv = attention.kv;
  const bool has_tiles = kv.block_size >= kTileTokens && (kv.block_size & (kv.block_size - 1)) == 0;
  const bool has_chunks = attention.q_stride % kChunk == 0 && kv.block_stride % kChunk == 0 && kv.layer_offset % kChunk == 0;
  return attention.element != PW_F32 && attention.element == kv.element && (kv.head_dim == 64 || kv.head_dim == 128) &&
         has_tiles && has_chunks &&
         are_aligned(attention.q, attention.out, kv.pool, op.partial_out, op.partial_stats);
}

}  // namespace
}  // namespace pw::decode_attention

extern "C" PwStatus pw_decode_attention(const PwDecodeAttention* op, PwStream stream) {
  using namespace pw;
  using namespace pw::decode_attention;
  const PwStatus status = check(*op);
  if (status != PW_OK || op->max_items == 0) return status;
  if (is_fast(*op)) {
    return with_half_element(op->attention.element, [&](auto element) {
      using T = typename decltype(element)::type;
      return op->attention.kv.head_dim == 64 ? launch_fast<T, 64>(*op, stream) : launch_fast<T, 128>(*op, stream);
    });
  }
  return with_element(op->attention.element, [&](auto element) {
    return with_element(op->attention.kv.element, [&](auto kv_element) {
      return launch_plain<typename decltype(element)::type, typename decltype(kv_element)::type>(*op, stream);
    });
  });
}
