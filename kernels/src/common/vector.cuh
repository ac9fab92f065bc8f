// Elements as f32, and accesses of up to 16 bytes. Knows no op.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace pw {

// Bytes of the widest access of one thread.
constexpr int kAccessBytes = 16;

// How many elements one access moves.
template <class T>
constexpr int kWidth = kAccessBytes / int(sizeof(T));

// One element or two, between their bits and f32. Rounding is to nearest even.
template <class T>
struct Bits;

template <>
struct Bits<float> {
  static __device__ float to_float(uint32_t bits) { return __uint_as_float(bits); }
  static __device__ uint32_t of(float value) { return __float_as_uint(value); }
};

template <>
struct Bits<__half> {
  static __device__ float to_float(uint32_t bits) { return __half2float(__ushort_as_half(uint16_t(bits))); }
  static __device__ uint32_t of(float value) { return __half_as_ushort(__float2half_rn(value)); }
  static __device__ float2 to_pair(uint32_t bits) {
    return __half22float2(__halves2half2(__ushort_as_half(uint16_t(bits)), __ushort_as_half(uint16_t(bits >> 16))));
  }
  static __device__ uint32_t of(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return uint32_t(__half_as_ushort(pair.x)) | uint32_t(__half_as_ushort(pair.y)) << 16;
  }
};

template <>
struct Bits<__nv_bfloat16> {
  static __device__ float to_float(uint32_t bits) { return __uint_as_float(bits << 16); }
  static __device__ uint32_t of(float value) { return __bfloat16_as_ushort(__float2bfloat16_rn(value)); }
  static __device__ float2 to_pair(uint32_t bits) {
    return make_float2(__uint_as_float(bits << 16), __uint_as_float(bits & 0xffff0000u));
  }
  static __device__ uint32_t of(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return uint32_t(__bfloat16_as_ushort(pair.x)) | uint32_t(__bfloat16_as_ushort(pair.y)) << 16;
  }
};

// The value that `value` has once it is stored.
template <class T>
__device__ inline float rounded(float value) {
  return Bits<T>::to_float(Bits<T>::of(value));
}

// N neighbouring elements as they lie in memory: a single one, or a multiple of 4 bytes that is aligned to its own size
// or, if it is larger, to 16 bytes.
template <class T, int N>
struct Pack {
  static constexpr int kBytes = N * int(sizeof(T));
  static constexpr int kWords = kBytes < 4 ? 1 : kBytes / 4;
  static_assert(N == 1 || kBytes == 4 || kBytes == 8 || kBytes % 16 == 0, "no access has this width");

  uint32_t words[kWords];

  static __device__ Pack load(const T* from) {
    Pack pack;
    if constexpr (kBytes == 2) {
      pack.words[0] = *reinterpret_cast<const uint16_t*>(from);
    } else if constexpr (kBytes == 4) {
      pack.words[0] = *reinterpret_cast<const uint32_t*>(from);
    } else if constexpr (kBytes == 8) {
      const uint2 access = *reinterpret_cast<const uint2*>(from);
      pack.words[0] = access.x, pack.words[1] = access.y;
    } else {
#pragma unroll
      for (int i = 0; i < kBytes / 16; ++i) {
        const uint4 access = reinterpret_cast<const uint4*>(from)[i];
        pack.words[4 * i] = access.x, pack.words[4 * i + 1] = access.y;
        pack.words[4 * i + 2] = access.z, pack.words[4 * i + 3] = access.w;
      }
    }
    return pack;
  }

  __device__ void store(T* to) const {
    if constexpr (kBytes == 2) {
      *reinterpret_cast<uint16_t*>(to) = uint16_t(words[0]);
    } else if constexpr (kBytes == 4) {
      *reinterpret_cast<uint32_t*>(to) = words[0];
    } else if constexpr (kBytes == 8) {
      *reinterpret_cast<uint2*>(to) = make_uint2(words[0], words[1]);
    } else {
#pragma unroll
      for (int i = 0; i < kBytes / 16; ++i) {
        reinterpret_cast<uint4*>(to)[i] =
            make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
      }
    }
  }

  static __device__ Pack of(const float (&values)[N]) {
    Pack pack;
    if constexpr (N == 1 || sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < N; ++i) pack.words[i] = Bits<T>::of(values[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) pack.words[i] = Bits<T>::of(values[2 * i], values[2 * i + 1]);
    }
    return pack;
  }

  __device__ void unpack(float (&values)[N]) const {
    if constexpr (N == 1 || sizeof(T) == 4) {
#pragma unroll
      for (int i = 0; i < N; ++i) values[i] = Bits<T>::to_float(words[i]);
    } else {
#pragma unroll
      for (int i = 0; i < kWords; ++i) {
        const float2 pair = Bits<T>::to_pair(words[i]);
        values[2 * i] = pair.x, values[2 * i + 1] = pair.y;
      }
    }
  }
};

}  // namespace pw
