// What changes logits before a choice, in the order of `adjust` in crates/sampling: bias, stop tokens, penalties. And the
// history behind the penalties.
#pragma once

#include "pagewise/sampling.h"
#include "sampling/part.cuh"

namespace pw::sampling {

// What the slot's owner wants, and where its lists are.
struct Slot {
  const PwSamplerState& state;
  int64_t index;
  // Of the slot, or a copy
  const PwSlotParams& params;

  __device__ const PwLogitBias* biases() const { return state.biases + index * PW_MAX_LOGIT_BIASES; }
  __device__ const int32_t* stop_tokens() const { return state.stop_tokens + index * PW_MAX_STOP_TOKENS; }
  __device__ PwSeenToken* history() const { return state.history + index * state.max_history; }
  __device__ int32_t& history_len() const { return state.history_lens[index]; }

  __device__ bool has_history() const { return params.history_len >= 0; }

  __device__ bool suppresses_stops(int output_position) const {
    return output_position < params.min_tokens && params.num_stop_tokens > 0;
  }

  __device__ bool adjusts(int output_position) const {
    return params.num_biases > 0 || suppresses_stops(output_position) || has_history();
  }
};

__device__ inline float penalised(float logit, uint32_t count, const PwSlotParams& params) {
  const float repetition = params.repetition_penalty;
  logit = logit > 0.0f ? __fdiv_rn(logit, repetition) : __fmul_rn(logit, repetition);
  if (count == 0) return logit;
  logit = __fsub_rn(logit, __fmul_rn(params.frequency_penalty, float(count)));
  return __fsub_rn(logit, params.presence_penalty);
}

// Changes the block's part. The tokens of each list are distinct; barriers keep the lists in order.
__device__ __forceinline__ void adjust(const Part& part, const Slot& slot, int output_position) {
  const PwSlotParams& params = slot.params;
  __syncthreads();
  for (int i = threadIdx.x; i < params.num_biases; i += kThreads) {
    const PwLogitBias bias = slot.biases()[i];
    if (part.has(bias.token)) part.logits[bias.token - part.first] += bias.bias;
  }
  __syncthreads();
  if (slot.suppresses_stops(output_position)) {
    for (int i = threadIdx.x; i < params.num_stop_tokens; i += kThreads) {
      const int token = slot.stop_tokens()[i];
      if (part.has(token)) part.logits[token - part.first] = -INFINITY;
    }
  }
  __syncthreads();
  if (slot.has_history()) {
    const int len = slot.history_len();
    for (int i = threadIdx.x; i < len; i += kThreads) {
      const PwSeenToken seen = slot.history()[i];
      const int token = int(seen & kMaxId);
      if (!part.has(token)) continue;
      float& logit = part.logits[token - part.first];
      logit = penalised(logit, seen >> PW_SEEN_TOKEN_BITS, params);
    }
  }
  __syncthreads();
}

// One more of `token` in the output. Of one block.
__device__ __forceinline__ void remember(const Slot& slot, uint32_t token) {
  constexpr uint32_t kMaxCount = 0xffffffffu >> PW_SEEN_TOKEN_BITS;
  const int len = slot.history_len();
  bool is_here = false;
  for (int i = threadIdx.x; i < len; i += kThreads) {
    const PwSeenToken seen = slot.history()[i];
    if ((seen & kMaxId) != token) continue;
    is_here = true;
    if (seen >> PW_SEEN_TOKEN_BITS < kMaxCount) slot.history()[i] = seen + (1u << PW_SEEN_TOKEN_BITS);
  }
  const bool is_known = __syncthreads_or(is_here);
  if (!is_known && threadIdx.x == 0 && len < slot.state.max_history) {
    slot.history()[len] = token | 1u << PW_SEEN_TOKEN_BITS;
    slot.history_len() = len + 1;
  }
}

}  // namespace pw::sampling
