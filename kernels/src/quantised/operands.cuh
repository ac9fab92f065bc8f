// From the device's layout to operands of a product: quants as exact integers of the activations' element, and the scales
// of what they sum up to. Knows neither rows of activations nor where a block lies.
//
// x = scale * q - minimum is never formed: the integers q fit exactly into bf16 and f16, so that a product sums q . a
// over a unit (or half of one) in f32, and the scale multiplies the sum. Values are those of the format, to f32 accuracy.
// Where the sum of the activations is needed for a minimum anyway, quants stay 16 larger than they are, and the minimum's
// factor takes it back: scale * q - minimum = scale * (16 + q) - (minimum + 16 * scale).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "quantised/layout.cuh"

namespace pw {
namespace quantised {

// (a & b) | c and (a & b) ^ c. As one instruction: of two constants the compiler makes two.
__device__ inline uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
__device__ inline uint32_t and_xor(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0x6a;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}

// Integers are made by placing their bits into the mantissa of a power of two and subtracting it. Pairs of an element.
template <class T>
struct Pairs;

template <>
struct Pairs<__nv_bfloat16> {
  static constexpr uint32_t kOne = 0x3f803f80;
  // 16 has a last mantissa bit of 1/8: four bits from bit 3 on add 0 to 15.
  static constexpr int kNibbleAt = 3;
  static constexpr uint32_t k16 = 0x41804180;
  static constexpr uint32_t k24 = 0x41c041c0;
  // 64 with a last bit of 1/2: six bits from bit 1 on add 0 to 63.
  static constexpr uint32_t k6Bits = 0x42804280;
  static constexpr uint32_t k6Bits32 = 0x42c042c0;

  static __device__ uint32_t subtract(uint32_t a, uint32_t b) {
    const __nv_bfloat162 difference =
        __hsub2(reinterpret_cast<const __nv_bfloat162&>(a), reinterpret_cast<const __nv_bfloat162&>(b));
    return reinterpret_cast<const uint32_t&>(difference);
  }
  // Signed bytes at bits 0 and 16. The mantissa has place for 7 bits: 128 + (q & 127), less 128, or 256 if q is negative.
  static __device__ uint32_t of_bytes(uint32_t word) {
    constexpr uint32_t k128 = 0x43004300;
    return subtract(and_or(word, 0x007f007f, k128), and_or(word, 0x00800080, k128));
  }
};

template <>
struct Pairs<__half> {
  static constexpr uint32_t kOne = 0x3c003c00;
  // 16 with a last bit of 1/64, and 512 with a last bit of 1/2.
  static constexpr int kNibbleAt = 6;
  static constexpr uint32_t k16 = 0x4c004c00;
  static constexpr uint32_t k24 = 0x4e004e00;
  static constexpr uint32_t k6Bits = 0x60006000;
  static constexpr uint32_t k6Bits32 = 0x60406040;

  static __device__ uint32_t subtract(uint32_t a, uint32_t b) {
    const __half2 difference = __hsub2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
    return reinterpret_cast<const uint32_t&>(difference);
  }
  // 1024 + (q + 128): the sum's bits are those of q with the sign inverted.
  static __device__ uint32_t of_bytes(uint32_t word) {
    constexpr uint32_t k1024And128 = 0x64806480;
    return subtract(and_xor(word, 0x00ff00ff, k1024And128), k1024And128);
  }
};

__device__ inline uint32_t rotate_right(uint32_t value, int by) {
  return by == 0 ? value : __funnelshift_r(value, value, by);
}

// One unit of 16 rows as the left operands of two products: halves[m] holds the pairs 2 m and 2 m + 1 of each lane, each
// for rows g and g + 8.
struct UnitOperand {
  uint32_t halves[2][4];
  __device__ uint32_t& pair(int p, int row_half) { return halves[p / 2][p % 2 * 2 + row_half]; }
};

// Quants of four bits, each 16 larger.
template <class T>
__device__ UnitOperand sixteen_and_nibbles(const uint8_t* quants, int unit, int lane) {
  const uint2 words = reinterpret_cast<const uint2*>(quants)[unit * 32 + lane];
  UnitOperand operand;
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    constexpr uint32_t kMask = 0x000f000fu << Pairs<T>::kNibbleAt;
    const int by = (32 + 4 * p + kNibbleShift - Pairs<T>::kNibbleAt) % 32;
    operand.pair(p, 0) = and_or(rotate_right(words.x, by), kMask, Pairs<T>::k16);
    operand.pair(p, 1) = and_or(rotate_right(words.y, by), kMask, Pairs<T>::k16);
  }
  return operand;
}

template <class T>
__device__ UnitOperand unit_operand(Q4_0, const uint8_t* block, int unit, int lane) {
  UnitOperand operand = sixteen_and_nibbles<T>(block, unit, lane);
#pragma unroll
  for (int p = 0; p < 4; ++p) {
    operand.pair(p, 0) = Pairs<T>::subtract(operand.pair(p, 0), Pairs<T>::k24);
    operand.pair(p, 1) = Pairs<T>::subtract(operand.pair(p, 1), Pairs<T>::k24);
  }
  return operand;
}
template <class T>
__device__ UnitOperand unit_operand(Q4_1, const uint8_t* block, int unit, int lane) {
  return sixteen_and_nibbles<T>(block, unit, lane);
}
template <class T>
__device__ UnitOperand unit_operand(Q4_K, const uint8_t* block, int unit, int lane) {
  return sixteen_and_nibbles<T>(block, unit, lane);
}

template <class T>
__device__ UnitOperand unit_operand(Q8_0, const uint8_t* block, int, int lane) {
  const uint4 words = reinterpret_cast<const uint4*>(block)[lane];
  UnitOperand operand;
  operand.pair(0, 0) = Pairs<T>::of_bytes(words.x);
  operand.pair(1, 0) = Pairs<T>::of_bytes(words.x >> 8);
  operand.pair(2, 0) = Pairs<T>::of_bytes(words.y);
  operand.pair(3, 0) = Pairs<T>::of_bytes(words.y >> 8);
  operand.pair(0, 1) = Pairs<T>::of_bytes(words.z);
  operand.pair(1, 1) = Pairs<T>::of_bytes(words.z >> 8);
  operand.pair(2, 1) = Pairs<T>::of_bytes(words.w);
  operand.pair(3, 1) = Pairs<T>::of_bytes(words.w >> 8);
  return operand;
}

template <class T>
__device__ UnitOperand unit_operand(Q6_K, const uint8_t* block, int unit, int lane) {
  const uint2 words = reinterpret_cast<const uint2*>(block)[unit * 32 + lane];
  const uint32_t upper = reinterpret_cast<const uint32_t*>(block + Q6_K::kUpperAt)[unit * 32 + lane];
  UnitOperand operand;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      constexpr uint32_t kMask = 0x000f000fu << kSixBitShift, kUpperMask = 0x00600060;
      const uint32_t low = and_or(rotate_right(half == 0 ? words.x : words.y, 4 * p), kMask, Pairs<T>::k6Bits);
      const uint32_t bits = and_or(rotate_right(upper, 2 * (4 * half + p)), kUpperMask, low);
      operand.pair(p, half) = Pairs<T>::subtract(bits, Pairs<T>::k6Bits32);
    }
  }
  return operand;
}

// What multiplies the sums of one lane's two rows (g and g + 8).
struct RowPair {
  float low;
  float high;
};

__device__ inline float2 half_pair(uint32_t bits) {
  return __half22float2(reinterpret_cast<const __half2&>(bits));
}

// Scales of the two halves of a unit, where they differ; or the scale of all of it and what multiplies the sum of its
// activations.
struct UnitScales {
  RowPair first;
  RowPair second;
};

// Formats with one scale a block read it where it lies.
template <class F>
constexpr bool kHasPreparedScales = F::kCols == 256;
template <class F>
constexpr bool kHasMinimum = F::kFormat == PW_Q4_1 || F::kFormat == PW_Q4_K;

__device__ inline UnitScales unit_scales(Q4_0, const uint8_t* block, const float4*, int, int g) {
  const float2 d = half_pair(reinterpret_cast<const uint32_t*>(block + Q4_0::kScalesAt)[g]);
  return {{d.x, d.y}, {0, 0}};
}
__device__ inline UnitScales unit_scales(Q8_0, const uint8_t* block, const float4*, int, int g) {
  const float2 d = half_pair(reinterpret_cast<const uint32_t*>(block + Q8_0::kScalesAt)[g]);
  return {{d.x, d.y}, {0, 0}};
}
__device__ inline UnitScales unit_scales(Q4_1, const uint8_t* block, const float4*, int, int g) {
  const uint2 bits = reinterpret_cast<const uint2*>(block + Q4_1::kScalesAt)[g];
  const float2 d = half_pair(bits.x), m = half_pair(bits.y);
  return {{d.x, d.y}, {__fmaf_rn(-16, d.x, m.x), __fmaf_rn(-16, d.y, m.y)}};
}

// The others prepare those of a block once: [8 units][8 of g], each lane two of them, in shared memory of the warp.
constexpr int kPreparedScales = 64;

template <class F>
__device__ UnitScales unit_scales(F, const uint8_t*, const float4* prepared, int unit, int g) {
  const float4 scales = prepared[unit * 8 + g];
  return {{scales.x, scales.y}, {scales.z, scales.w}};
}

// Of units 2 t and 2 t + 1 of one row: the scale, and the factor of the activations' sum.
__device__ inline float4 pair_of_scales(const uint8_t* row, int t) {
  const float2 d = half_pair(*reinterpret_cast<const uint32_t*>(row));
  const uint32_t low = reinterpret_cast<const uint16_t*>(row + 4)[t], upper = row[12 + t];
  const auto value = [&](int i) { return float((low >> (4 * i) & 15) | (upper >> (2 * i) & 3) << 4); };
  const auto factor = [&](float scale, float minimum) { return __fmaf_rn(-16, scale, -minimum); };
  const float first = d.x * value(0), second = d.x * value(2);
  return make_float4(first, factor(first, d.y * value(1)), second, factor(second, d.y * value(3)));
}

__device__ inline void prepare_scales(Q4_K, const uint8_t* block, int lane, float4* prepared) {
  const int g = lane / 4, t = lane % 4;
  const float4 low = pair_of_scales(block + Q4_K::kScalesAt + g * 16, t);
  const float4 high = pair_of_scales(block + Q4_K::kScalesAt + (g + 8) * 16, t);
  prepared[2 * t * 8 + g] = make_float4(low.x, high.x, low.y, high.y);
  prepared[(2 * t + 1) * 8 + g] = make_float4(low.z, high.z, low.w, high.w);
}

__device__ inline void prepare_scales(Q6_K, const uint8_t* block, int lane, float4* prepared) {
  const int g = lane / 4, t = lane % 4;
  const __half* d = reinterpret_cast<const __half*>(block + Q6_K::kSuperScalesAt);
  const float low_d = __half2float(d[g]), high_d = __half2float(d[g + 8]);
  const char4 low = reinterpret_cast<const char4*>(block + Q6_K::kScalesAt + g * 16)[t];
  const char4 high = reinterpret_cast<const char4*>(block + Q6_K::kScalesAt + (g + 8) * 16)[t];
  prepared[2 * t * 8 + g] =
      make_float4(low_d * float(low.x), high_d * float(high.x), low_d * float(low.y), high_d * float(high.y));
  prepared[(2 * t + 1) * 8 + g] =
      make_float4(low_d * float(low.z), high_d * float(high.z), low_d * float(low.w), high_d * float(high.w));
}

}  // namespace quantised
}  // namespace pw
