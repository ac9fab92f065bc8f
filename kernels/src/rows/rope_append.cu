// QK-norm, rotary embedding and the append to the KV pool, in one pass over qkv.
//
// Where a head's halves divide into accesses of 16 bytes and a power of two of lanes, a thread takes the same access of
// both halves of a head, so that a rotation stays in one thread and a norm in a few neighbours. Other heads get a warp each.
#include "common/reduce.cuh"
#include "pagewise/rows.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

// Of a block. Fewer than elsewhere: a decode step has few units, and their loads should come from many multiprocessors.
constexpr int kThreads = 128;

// What a head is to be done with.
enum class Role { kQuery, kKey, kValue };

// A head of a token, and the number of the lane that works on it.
struct Work {
  int token;
  int head;
  int lane;
  int position;

  __device__ Role role(const PwRopeAppend& op) const {
    if (head < op.num_heads) return Role::kQuery;
    return head < op.num_heads + op.kv.num_kv_heads ? Role::kKey : Role::kValue;
  }
};

__device__ int heads_per_token(const PwRopeAppend& op) { return op.num_heads + 2 * op.kv.num_kv_heads; }

// Work number `unit` of all tokens, `lanes` of them a head; its position is -1 if it is padding or beyond the last.
__device__ Work work_of(const PwRopeAppend& op, unsigned unit, int lanes) {
  const unsigned head_of_all = unit / unsigned(lanes);
  const unsigned token = head_of_all / unsigned(heads_per_token(op));
  const int head = int(head_of_all - token * unsigned(heads_per_token(op)));
  const int position = token < unsigned(op.rows) ? op.step.positions[token] : -1;
  return {int(token), head, int(unit - head_of_all * unsigned(lanes)), position};
}

template <class T>
__device__ T* head_of(const PwRopeAppend& op, const Work& work) {
  return static_cast<T*>(op.qkv) + (int64_t(work.token) * heads_per_token(op) + work.head) * op.kv.head_dim;
}

// Where the pool keeps a key's or a value's head.
template <class K>
__device__ K* place_of(const PwRopeAppend& op, const Work& work) {
  const PwKvView& kv = op.kv;
  const int64_t slot = op.step.token_slots[work.token];
  const int index = work.position / kv.block_size, offset = work.position - index * kv.block_size;
  const int64_t block = op.step.tables[slot * op.step.max_blocks_per_slot + index];
  // The layer's values follow its keys as their heads do in qkv.
  const int64_t row = int64_t(work.head - op.num_heads) * kv.block_size + offset;
  return static_cast<K*>(kv.pool) + block * kv.block_stride + kv.layer_offset + row * kv.head_dim;
}

// y[i] and y[i + h] of x[i] and x[i + h].
__device__ void rotate(float& first, float& second, float cosine, float sine) {
  const float x = first;
  first = x * cosine - second * sine;
  second = second * cosine + x * sine;
}

// `lanes` threads a head, a power of two of at most a warp.
template <class T, class K>
__global__ void __launch_bounds__(kThreads) rope_append(const PwRopeAppend op, int lanes) {
  constexpr int N = kWidth<T>;
  wait_for_previous();
  let_next_start();
  const Work work = work_of(op, blockIdx.x * kThreads + threadIdx.x, lanes);
  const Role role = work.role(op);
  const int half = op.kv.head_dim / 2, at = work.lane * N;
  T* head = head_of<T>(op, work);
  const bool is_padding = work.position < 0;

  Pack<T, N> pack[2] = {};
  Pack<float, N> cosines = {}, sines = {};
  if (!is_padding) {
    pack[0] = Pack<T, N>::load(head + at), pack[1] = Pack<T, N>::load(head + half + at);
    if (role != Role::kValue) {
      const float* rotation = op.rope + int64_t(work.position) * op.kv.head_dim;
      cosines = Pack<float, N>::load(rotation + at), sines = Pack<float, N>::load(rotation + half + at);
    }
  }
  float first[N], second[N];
  pack[0].unpack(first), pack[1].unpack(second);

  if (op.q_norm != nullptr) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) sum += first[i] * first[i] + second[i] * second[i];
    // The padded and the values' lanes take part in the shuffles.
    const float scale = rsqrtf(group_sum(sum, lanes) / float(op.kv.head_dim) + op.norm_eps);
    if (role != Role::kValue) {
      const float* weight = role == Role::kQuery ? op.q_norm : op.k_norm;
      float weights[N];
      Pack<float, N>::load(weight + at).unpack(weights);
#pragma unroll
      for (int i = 0; i < N; ++i) first[i] *= scale * weights[i];
      Pack<float, N>::load(weight + half + at).unpack(weights);
#pragma unroll
      for (int i = 0; i < N; ++i) second[i] *= scale * weights[i];
    }
  }
  if (is_padding) return;

  if (role != Role::kValue) {
    float cosine[N], sine[N];
    cosines.unpack(cosine), sines.unpack(sine);
#pragma unroll
    for (int i = 0; i < N; ++i) rotate(first[i], second[i], cosine[i], sine[i]);
    pack[0] = Pack<T, N>::of(first), pack[1] = Pack<T, N>::of(second);
    pack[0].store(head + at), pack[1].store(head + half + at);
  }
  if (role != Role::kQuery) {
    // As rounded to the activation's element.
    pack[0].unpack(first), pack[1].unpack(second);
    K* place = place_of<K>(op, work);
    Pack<K, N>::of(first).store(place + at), Pack<K, N>::of(second).store(place + half + at);
  }
}

// A warp a head, for any even size of it. A lane reads again only what it read before.
template <class T, class K>
__global__ void __launch_bounds__(kThreads) rope_append_any(const PwRopeAppend op) {
  wait_for_previous();
  let_next_start();
  const Work work = work_of(op, blockIdx.x * kThreads + threadIdx.x, kWarp);
  if (work.position < 0) return;
  const Role role = work.role(op);
  const int half = op.kv.head_dim / 2;
  T* head = head_of<T>(op, work);
  const auto element = [&](int i) { return Bits<T>::to_float(Pack<T, 1>::load(head + i).words[0]); };
  const auto store = [](auto* to, float value) {
    using To = std::remove_pointer_t<decltype(to)>;
    Pack<To, 1>{{Bits<To>::of(value)}}.store(to);
  };

  const float* weight = op.q_norm == nullptr || role == Role::kValue ? nullptr : role == Role::kQuery ? op.q_norm : op.k_norm;
  float scale = 1.0f;
  if (weight != nullptr) {
    float sum = 0.0f;
    for (int i = work.lane; i < half; i += kWarp) sum += element(i) * element(i) + element(i + half) * element(i + half);
    scale = rsqrtf(warp_sum(sum) / float(op.kv.head_dim) + op.norm_eps);
  }
  K* place = role == Role::kQuery ? nullptr : place_of<K>(op, work);
  const float* rotation = op.rope + int64_t(work.position) * op.kv.head_dim;
  for (int i = work.lane; i < half; i += kWarp) {
    float first = element(i), second = element(i + half);
    if (weight != nullptr) first *= scale * weight[i], second *= scale * weight[i + half];
    if (role != Role::kValue) {
      rotate(first, second, rotation[i], rotation[i + half]);
      store(head + i, first), store(head + i + half, second);
    }
    if (place != nullptr) store(place + i, rounded<T>(first)), store(place + i + half, rounded<T>(second));
  }
}

// Lanes a head that the fast kernel takes for it, or 0 if it cannot.
template <class T, class K>
int fast_lanes(const PwRopeAppend& op) {
  constexpr int N = kWidth<T>, kPlaceWidth = kWidth<K> < N ? kWidth<K> : N;
  const int half = op.kv.head_dim / 2, lanes = half / N;
  const bool is_power_of_two = lanes > 0 && (lanes & (lanes - 1)) == 0;
  const bool is_pool_aligned = op.kv.block_stride % kPlaceWidth == 0 && op.kv.layer_offset % kPlaceWidth == 0;
  return half % N == 0 && is_power_of_two && lanes <= kWarp && is_pool_aligned ? lanes : 0;
}

template <class T, class K>
PwStatus launch(const PwRopeAppend& op, PwStream stream) {
  const int lanes = fast_lanes<T, K>(op);
  const int64_t heads = int64_t(op.rows) * (op.num_heads + 2 * op.kv.num_kv_heads);
  const int64_t blocks = num_blocks(heads * (lanes > 0 ? lanes : kWarp), kThreads);
  if (blocks < 0) return PW_INVALID;
  if (lanes > 0) return launch_dependent(rope_append<T, K>, dim3(unsigned(blocks)), dim3(kThreads), stream, op, lanes);
  return launch_dependent(rope_append_any<T, K>, dim3(unsigned(blocks)), dim3(kThreads), stream, op);
}

bool is_valid(const PwRopeAppend& op) {
  const PwKvView& kv = op.kv;
  if (op.rows < 0 || op.num_heads <= 0 || kv.num_kv_heads <= 0 || kv.block_size <= 0) return false;
  if (kv.head_dim <= 0 || kv.head_dim % 2 != 0 || op.step.max_blocks_per_slot <= 0) return false;
  if ((op.q_norm == nullptr) != (op.k_norm == nullptr)) return false;
  return are_aligned(op.qkv, op.rope, op.q_norm, op.k_norm, kv.pool);
}

}  // namespace
}  // namespace pw

extern "C" PwStatus pw_rope_append(const PwRopeAppend* op, PwStream stream) {
  using namespace pw;
  if (!is_valid(*op)) return PW_INVALID;
  if (op->rows == 0) return PW_OK;
  return with_element(op->element, [&](auto activation) {
    return with_element(op->kv.element, [&](auto kv) {
      return launch<typename decltype(activation)::type, typename decltype(kv)::type>(*op, stream);
    });
  });
}
