// The order of tokens by rank: larger logits first, lower ids first among equals.
#pragma once

#include <cmath>
#include <cstdint>

namespace pw::sampling {

constexpr int kIdBits = 20;
constexpr uint32_t kMaxId = (1u << kIdBits) - 1;

// A logit as an integer of the same order; both zeros are equal. No number has the key 0.
__device__ inline uint32_t key_of(float logit) {
  const uint32_t bits = __float_as_uint(__fadd_rn(logit, 0.0f));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ inline float logit_of(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

// A token's place in that order as one number: larger is earlier.
__device__ inline uint64_t place_of(float logit, uint32_t id) { return uint64_t(key_of(logit)) << kIdBits | (kMaxId - id); }

__device__ inline float logit_at(uint64_t place) { return logit_of(uint32_t(place >> kIdBits)); }

__device__ inline uint32_t id_at(uint64_t place) { return kMaxId - uint32_t(place & kMaxId); }

// The last token of a prefix of the order. Comparing floats and ids apart is cheaper than building places.
struct Limit {
  float logit;
  uint32_t id;

  static __device__ Limit none() { return {-INFINITY, kMaxId}; }
  static __device__ Limit at(uint64_t place) { return {logit_at(place), id_at(place)}; }
  __device__ bool keeps(float other, uint32_t other_id) const {
    return (other > logit) | ((other == logit) & (other_id <= id));
  }
};

}  // namespace pw::sampling
