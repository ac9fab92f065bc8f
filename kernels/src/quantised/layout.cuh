// How quantised weights lie on the device: which bits of a weight are where. Knows no arithmetic on them.
//
// A weight of n rows and k columns is cut into tiles of 16 rows (the last one is padded with zeros) and, along the columns,
// into the format's blocks: [ceil(n / 16)][k / kCols] device blocks of 16 stored blocks each, and as many bytes. Within a
// device block quants and scales lie apart, the quants by units of 32 columns in the order in which a warp's lanes feed
// them to m16n8k16 (common/mma_sync.cuh): lane 4 g + t holds eight columns of row g and eight of row g + 8, so that each
// lane reads 8 or 16 neighbouring bytes and the warp all of the unit.
#pragma once

#include <cstdint>

#include "pagewise/quantised.h"

namespace pw {
namespace quantised {

constexpr int kTileRows = PW_QUANTISED_TILE_ROWS;
constexpr int kUnitCols = 32;
// Columns of a row that one lane holds of a unit.
constexpr int kLaneCols = 8;

// The column within a unit of the j-th (0 to 7) that lane t holds. They come in runs of 8 or, so that the first half of
// the lane's columns is the first half of the unit's, 4.
template <int RUN>
__host__ __device__ constexpr int unit_col(int t, int j) {
  return j / RUN * (4 * RUN) + t * RUN + j % RUN;
}

// Eight 4-bit quants in 32 bits, in pairs: each half holds one of pair p (columns 2p and 2p + 1) at bit `shift` after a
// rotation to the right by 4 p.
constexpr int kNibbleShift = 3;
constexpr int kSixBitShift = 1;
__host__ __device__ constexpr int nibble_bit(int shift, int j) { return (shift + j / 2 * 4 + j % 2 * 16) % 32; }

// Eight pairs of 2 upper bits in 32 bits: pair p is at bits 5 and 21 after a rotation to the right by 2 p. Pairs 0 to 3
// belong to row g, the others to row g + 8.
__host__ __device__ constexpr int upper_bit(int half, int j) { return (5 + (half * 4 + j / 2) * 2 + j % 2 * 16) % 32; }

// Four bytes in 32 bits: columns j and j + 1 of an even j at bits 0 and 16 after a shift by 8 (j / 2).
__host__ __device__ constexpr int byte_bit(int j) { return j / 2 * 8 + j % 2 * 16; }

// [lane][2 halves] words of 4-bit quants, then [8 of g](d of row g, d of row g + 8).
struct Q4_0 {
  static constexpr PwWeightFormat kFormat = PW_Q4_0;
  static constexpr int kCols = 32;
  static constexpr int kStoredBytes = 18;
  static constexpr int kRun = 8;
  static constexpr int kScalesAt = 256;
};

// As Q4_0, then [8 of g](d of row g, d of row g + 8, m of row g, m of row g + 8).
struct Q4_1 {
  static constexpr PwWeightFormat kFormat = PW_Q4_1;
  static constexpr int kCols = 32;
  static constexpr int kStoredBytes = 20;
  static constexpr int kRun = 8;
  static constexpr int kScalesAt = 256;
};

// [lane][2 halves][2] words of bytes, then the scales of Q4_0.
struct Q8_0 {
  static constexpr PwWeightFormat kFormat = PW_Q8_0;
  static constexpr int kCols = 32;
  static constexpr int kStoredBytes = 34;
  static constexpr int kRun = 8;
  static constexpr int kScalesAt = 512;
};

// [8 units][lane][2 halves] words of 4-bit quants, then 16 bytes a row: d, dmin, and of each pair of units scale, minimum,
// scale, minimum: the low four bits of these in [4] 16-bit words, then the upper two in [4] bytes.
struct Q4_K {
  static constexpr PwWeightFormat kFormat = PW_Q4_K;
  static constexpr int kCols = 256;
  static constexpr int kStoredBytes = 144;
  static constexpr int kRun = 8;
  static constexpr int kScalesAt = 2048;
};

// [8 units][lane][2 halves] words of 4-bit quants, [8 units][lane] words of upper bits, then [16 rows][16] scales, and
// [16 rows] d.
struct Q6_K {
  static constexpr PwWeightFormat kFormat = PW_Q6_K;
  static constexpr int kCols = 256;
  static constexpr int kStoredBytes = 210;
  static constexpr int kRun = 4;
  static constexpr int kUpperAt = 2048;
  static constexpr int kScalesAt = 3072;
  static constexpr int kSuperScalesAt = 3328;
};

template <class F>
constexpr int kBlockBytes = kTileRows * F::kStoredBytes;
template <class F>
constexpr int kBlockUnits = F::kCols / kUnitCols;

// Calls `f(Type<F>{})` with the description of a format.
template <class Result, class G>
Result with_format(PwWeightFormat format, Result otherwise, G&& f) {
  switch (format) {
    case PW_Q4_0:
      return f(Q4_0{});
    case PW_Q4_1:
      return f(Q4_1{});
    case PW_Q8_0:
      return f(Q8_0{});
    case PW_Q4_K:
      return f(Q4_K{});
    case PW_Q6_K:
      return f(Q6_K{});
    default:
      return otherwise;
  }
}

// Whether a weight of this shape can be laid out.
template <class F>
bool is_shape(int32_t n, int32_t k) {
  return n > 0 && k > 0 && k % F::kCols == 0;
}

__host__ __device__ constexpr int num_tiles(int n) { return (n + kTileRows - 1) / kTileRows; }

}  // namespace quantised
}  // namespace pw
