// What becomes of a tile's sums: rounded and stored, added to what is there, or gated. A warp's business; knows how lanes hold
// sums (see common/fragment.cuh), not how they were made.
#pragma once

#include "common/fragment.cuh"
#include "common/silu.cuh"
#include "common/vector.cuh"
#include "pagewise/product.h"

namespace pw::dense {

// Where a warp's 16 rows of sums belong. A piece is 8 columns.
struct Place {
  void* out;
  int64_t stride;
  int first_row;
  int end_row;
  int first_column;
  int end_column;
};

// Four pieces side by side of one of a lane's two rows, as packed pairs. A lane of a quad stores one whole piece: 16 bytes.
template <class T>
struct Quad {
  uint32_t words[4];

  // The address of this lane's piece, or null if it is outside.
  static __device__ __forceinline__ T* address(const Place& place, int half, int first_piece, int lane) {
    const int row = place.first_row + half * 8 + lane / 4;
    const int column = place.first_column + (first_piece + lane % 4) * 8;
    if (row >= place.end_row || column >= place.end_column) return nullptr;
    return static_cast<T*>(place.out) + row * place.stride + column;
  }
  static __device__ __forceinline__ uint4 load(const T* from) {
    return from == nullptr ? uint4{} : *reinterpret_cast<const uint4*>(from);
  }
  static __device__ __forceinline__ Quad of(const uint4& piece, int lane) {
    Quad quad = {{piece.x, piece.y, piece.z, piece.w}};
    transpose_quad(quad.words, lane);
    return quad;
  }
  __device__ __forceinline__ void store(T* to, int lane) {
    transpose_quad(words, lane);
    if (to != nullptr) *reinterpret_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
  }
};

// Calls f(half, first_piece) for each four pieces of `kPieces` in each of a lane's rows.
template <int kPieces, class F>
__device__ __forceinline__ void for_quads(F&& f) {
  static_assert(kPieces % 4 == 0, "a quad of lanes exchanges four pieces");
#pragma unroll
  for (int first_piece = 0; first_piece < kPieces; first_piece += 4) {
    f(0, first_piece);
    f(1, first_piece);
  }
}

template <class T, int kSums>
__device__ __forceinline__ void store(const float (&sums)[kSums], const Place& place, int lane) {
  for_quads<kSums / 4>([&](int half, int first_piece) {
    Quad<T> quad;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* pair = sums + 4 * (first_piece + i) + 2 * half;
      quad.words[i] = pack_pair<T>(pair[0], pair[1]);
    }
    quad.store(Quad<T>::address(place, half, first_piece, lane), lane);
  });
}

template <class T, int kSums>
__device__ __forceinline__ void add(const float (&sums)[kSums], const Place& place, int lane) {
  // All of them are asked for before the first is needed.
  uint4 old[kSums / 8];
  for_quads<kSums / 4>([&](int half, int first_piece) {
    old[first_piece / 2 + half] = Quad<T>::load(Quad<T>::address(place, half, first_piece, lane));
  });
  for_quads<kSums / 4>([&](int half, int first_piece) {
    Quad<T> quad = Quad<T>::of(old[first_piece / 2 + half], lane);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* pair = sums + 4 * (first_piece + i) + 2 * half;
      const float2 before = Bits<T>::to_pair(quad.words[i]);
      quad.words[i] = pack_pair<T>(before.x + pair[0], before.y + pair[1]);
    }
    quad.store(Quad<T>::address(place, half, first_piece, lane), lane);
  });
}

// The first half of the sums are gates.
template <class T, int kSums>
__device__ __forceinline__ void gate(const float (&sums)[kSums], const Place& place, int lane) {
  for_quads<kSums / 8>([&](int half, int first_piece) {
    Quad<T> quad;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* gate = sums + 4 * (first_piece + i) + 2 * half;
      const float* up = gate + kSums / 2;
      quad.words[i] = pack_pair<T>(silu<T>(gate[0]) * up[0], silu<T>(gate[1]) * up[1]);
    }
    quad.store(Quad<T>::address(place, half, first_piece, lane), lane);
  });
}

// In f32: a quad's pairs are 32 contiguous bytes as they are.
template <int kSums>
__device__ __forceinline__ void store_sums(const float (&sums)[kSums], const Place& place, int lane) {
#pragma unroll
  for (int piece = 0; piece < kSums / 4; ++piece) {
    const int column = place.first_column + piece * 8 + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = place.first_row + half * 8 + lane / 4;
      if (row >= place.end_row || column >= place.end_column) continue;
      float* to = static_cast<float*>(place.out) + row * place.stride + column;
      *reinterpret_cast<float2*>(to) = make_float2(sums[4 * piece + 2 * half], sums[4 * piece + 2 * half + 1]);
    }
  }
}

template <class T, int kSums>
__device__ __forceinline__ void end_product(const PwProduct& op, const float (&sums)[kSums], const Place& place, int lane) {
  if (op.end == PW_PRODUCT_ADD) {
    add<T>(sums, place, lane);
  } else if (op.end == PW_PRODUCT_GATED) {
    // A width of 32 has too few pieces in each half; plans do not ask for it.
    if constexpr (kSums % 32 == 0) gate<T>(sums, place, lane);
  } else if (op.out_element == PW_F32) {
    store_sums(sums, place, lane);
  } else {
    store<T>(sums, place, lane);
  }
}

}  // namespace pw::dense
