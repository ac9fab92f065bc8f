// The weight of a token in a draw: exp((logit - max) / temperature), rounded as the crate `sampling` rounds it. Nothing here
// may be contracted to a fused operation except where it is written so.
#pragma once

namespace pw::sampling {

// `e^x` for `-89 < x <= 0`: see `exp_nonpositive` in crates/sampling/src/exponential.rs, whose steps these are.
__device__ inline float exp_nonpositive(float x) {
  constexpr float kLowest = -87.0f;
  constexpr float kRound = 12582912.0f;
  const float shifted = __fadd_rn(__fmul_rn(x, 1.44269504f), kRound);
  const float n = __fsub_rn(shifted, kRound);
  const float r = __fadd_rn(__fsub_rn(x, __fmul_rn(n, 0.6933594f)), __fmul_rn(n, 2.1219444e-4f));
  float p = 1.9875691e-4f;
  p = __fadd_rn(__fmul_rn(p, r), 1.3982e-3f);
  p = __fadd_rn(__fmul_rn(p, r), 8.333452e-3f);
  p = __fadd_rn(__fmul_rn(p, r), 4.1665796e-2f);
  p = __fadd_rn(__fmul_rn(p, r), 1.6666665e-1f);
  p = __fadd_rn(__fmul_rn(p, r), 0.5f);
  const float fraction = __fadd_rn(__fadd_rn(__fmul_rn(__fmul_rn(p, r), r), r), 1.0f);
  const float power = __uint_as_float((__float_as_uint(shifted) << 23) + (127u << 23));
  return x < kLowest ? 0.0f : __fmul_rn(fraction, power);
}

// Of one row. Temperatures are from 1e-5 to 100.
struct Weigher {
  float max;
  float temperature;
  float inverse;
  // A difference to `max` that weighs nothing, with a margin over -87 temperatures.
  float lowest;

  __device__ Weigher(float max, float temperature)
      : max(max), temperature(temperature), inverse(1.0f / temperature), lowest(-88.0f * temperature) {}

  __device__ float operator()(float logit) const {
    // The bound also keeps minus infinity from the division, which would give NaN.
    return exp_nonpositive(divided(fmaxf(__fsub_rn(logit, max), lowest)));
  }

 private:
  // x / temperature, correctly rounded: Newton's correction twice (Markstein, 1990), of which the first brings the quotient
  // within a unit in the last place and the second to the nearest.
  __device__ float divided(float x) const {
    const float first = __fmul_rn(x, inverse);
    const float second = __fmaf_rn(__fmaf_rn(-temperature, first, x), inverse, first);
    return __fmaf_rn(__fmaf_rn(-temperature, second, x), inverse, second);
  }
};

}  // namespace pw::sampling
