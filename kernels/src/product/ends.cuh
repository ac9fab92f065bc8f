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

// Calls f(half, first_piece) for each four pieces of `kPieces` in each of a lane's rows; the last ones may be fewer.
template <int kPieces, class F>
__device__ __forceinline__ void for_quads(F&& f) {
#pragma unroll
  for (int first_piece = 0; first_piece < kPieces; first_piece += 4) {
    f(0, first_piece);
    f(1, first_piece);
  }
}

// The quad of pairs that f(i) gives, i being a pair's place among the lane's sums.
template <class T, int kPieces, class F>
__device__ __forceinline__ Quad<T> quad_of(int half, int first_piece, F&& f) {
  Quad<T> quad;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    quad.words[i] = 0;
    if (first_piece + i < kPieces) {
      const float2 pair = f(4 * (first_piece + i) + 2 * half);
      quad.words[i] = pack_pair<T>(pair.x, pair.y);
    }
  }
  return quad;
}

template <class T, int kSums>
__device__ __forceinline__ void store(const float (&sums)[kSums], const Place& place, int lane) {
  constexpr int kPieces = kSums / 4;
  for_quads<kPieces>([&](int half, int first_piece) {
    Quad<T> quad = quad_of<T, kPieces>(half, first_piece, [&](int i) { return make_float2(sums[i], sums[i + 1]); });
    quad.store(Quad<T>::address(place, half, first_piece, lane), lane);
  });
}

// What sums are added to, as it lies in memory: all of it is asked for before the first is needed.
template <int kPieces>
struct Old {
  uint4 pieces[(kPieces + 3) / 4 * 2];

  template <class T>
  __device__ __forceinline__ void load(const Place& place, int lane) {
    for_quads<kPieces>([&](int half, int first_piece) {
      const T* from = Quad<T>::address(place, half, first_piece, lane);
      pieces[first_piece / 2 + half] = from == nullptr ? uint4{} : *reinterpret_cast<const uint4*>(from);
    });
  }
};

template <class T, int kSums>
__device__ __forceinline__ void add(const float (&sums)[kSums], const Old<kSums / 4>& old, const Place& place, int lane) {
  constexpr int kPieces = kSums / 4;
  for_quads<kPieces>([&](int half, int first_piece) {
    const Quad<T> old_quad = Quad<T>::of(old.pieces[first_piece / 2 + half], lane);
    Quad<T> quad = quad_of<T, kPieces>(half, first_piece, [&](int i) {
      const float2 before = Bits<T>::to_pair(old_quad.words[i / 4 - first_piece]);
      return make_float2(before.x + sums[i], before.y + sums[i + 1]);
    });
    quad.store(Quad<T>::address(place, half, first_piece, lane), lane);
  });
}

// The first half of the sums are gates.
template <class T, int kSums>
__device__ __forceinline__ void gate(const float (&sums)[kSums], const Place& place, int lane) {
  constexpr int kPieces = kSums / 8;
  for_quads<kPieces>([&](int half, int first_piece) {
    Quad<T> quad = quad_of<T, kPieces>(half, first_piece, [&](int i) {
      return make_float2(silu<T>(sums[i]) * sums[i + kSums / 2], silu<T>(sums[i + 1]) * sums[i + kSums / 2 + 1]);
    });
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

// `old` is read if the product is added, and was loaded then.
template <class T, int kSums>
__device__ __forceinline__ void end_product(const PwProduct& op, const float (&sums)[kSums], const Old<kSums / 4>& old,
                                            const Place& place, int lane) {
  if (op.end == PW_PRODUCT_ADD) {
    add<T>(sums, old, place, lane);
  } else if (op.end == PW_PRODUCT_GATED) {
    gate<T>(sums, place, lane);
  } else if (op.out_element == PW_F32) {
    store_sums(sums, place, lane);
  } else {
    store<T>(sums, place, lane);
  }
}

}  // namespace pw::dense
