// A part of a head's result, from some of its context, and how parts are added.
//
// It is a maximum m of scores in powers of two, the sum of 2^(score - m), and the values weighted alike (the online softmax
// of Milakov and Gimelshein, 2018).
#pragma once

#include <limits>

#include "common/vector.cuh"

namespace pw::decode_attention {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kLog2E = 1.4426950408889634f;

// 2^x, with 2^-infinity = 0.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// What scores are taken relative to. Finite where all of them are minus infinity, or NaN, which a maximum passes over.
__device__ inline float base_of(float maximum) { return maximum == kMinusInfinity ? 0.0f : maximum; }

// Some elements of a head's result.
template <int kWidth>
struct Part {
  float maximum = kMinusInfinity;
  float sum = 0.0f;
  float out[kWidth] = {};

  // `stats` are the other part's maximum and sum.
  __device__ void add(float2 stats, const Pack<float, kWidth>& other) {
    const float larger = fmaxf(maximum, stats.x);
    const float base = base_of(larger);
    const float mine = power_of_two(maximum - base), its = power_of_two(stats.x - base);
    float values[kWidth];
    other.unpack(values);
    maximum = larger;
    sum = sum * mine + stats.y * its;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) out[i] = out[i] * mine + values[i] * its;
  }

  template <class T>
  __device__ void store_result(T* to) const {
    const float scale = 1.0f / sum;
    float values[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = out[i] * scale;
    Pack<T, kWidth>::of(values).store(to);
  }
};

}  // namespace pw::decode_attention
