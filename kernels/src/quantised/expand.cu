// Quantised rows as rows of an element: whole panels for a large product, or single rows for an embedding. Each value is
// computed in f32 as ggml's reference does, in the same order and without fused operations, and rounded once.
#include "common/dependent.cuh"
#include "common/geometry.cuh"
#include "common/vector.cuh"
#include "pagewise/quantised.h"
#include "quantised/layout.cuh"

namespace pw {
namespace quantised {
namespace {

// The eight columns that lane 4 g + t holds of row g + 8 half of one unit.
struct Place {
  const uint8_t* block;
  int unit;
  int g;
  int t;
  int half;

  __device__ int lane() const { return g * 4 + t; }
  __device__ int row() const { return g + half * 8; }
};

using Eight = float[kLaneCols];

__device__ uint32_t bits_at(uint32_t word, int bit) { return __funnelshift_r(word, word, bit); }

__device__ uint32_t four_bit_word(const Place& at) {
  return reinterpret_cast<const uint32_t*>(at.block)[(at.unit * 32 + at.lane()) * 2 + at.half];
}

__device__ float scale_at(const uint8_t* scale) { return __half2float(*reinterpret_cast<const __half*>(scale)); }

__device__ void values(Q4_0, const Place& at, Eight& out) {
  const uint32_t word = four_bit_word(at);
  const float d = scale_at(at.block + Q4_0::kScalesAt + at.g * 4 + at.half * 2);
#pragma unroll
  for (int j = 0; j < kLaneCols; ++j) {
    out[j] = __fmul_rn(float(int(bits_at(word, nibble_bit(kNibbleShift, j)) & 15) - 8), d);
  }
}

__device__ void values(Q4_1, const Place& at, Eight& out) {
  const uint32_t word = four_bit_word(at);
  const uint8_t* scales = at.block + Q4_1::kScalesAt + at.g * 8 + at.half * 2;
  const float d = scale_at(scales), m = scale_at(scales + 4);
#pragma unroll
  for (int j = 0; j < kLaneCols; ++j) {
    out[j] = __fadd_rn(__fmul_rn(float(bits_at(word, nibble_bit(kNibbleShift, j)) & 15), d), m);
  }
}

__device__ void values(Q8_0, const Place& at, Eight& out) {
  const uint2 words = reinterpret_cast<const uint2*>(at.block)[at.lane() * 2 + at.half];
  const float d = scale_at(at.block + Q8_0::kScalesAt + at.g * 4 + at.half * 2);
#pragma unroll
  for (int j = 0; j < kLaneCols; ++j) {
    const uint32_t word = j < 4 ? words.x : words.y;
    out[j] = __fmul_rn(float(int8_t(word >> byte_bit(j % 4))), d);
  }
}

__device__ void values(Q4_K, const Place& at, Eight& out) {
  const uint32_t word = four_bit_word(at);
  const uint8_t* row = at.block + Q4_K::kScalesAt + at.row() * 16;
  const int pair = at.unit / 2, odd = at.unit % 2;
  const uint32_t low = reinterpret_cast<const uint16_t*>(row + 4)[pair] >> (8 * odd);
  const uint32_t upper = uint32_t(row[12 + pair]) >> (4 * odd);
  const float scale = __fmul_rn(scale_at(row), float((low & 15) | (upper & 3) << 4));
  const float minimum = __fmul_rn(scale_at(row + 2), float((low >> 4 & 15) | (upper >> 2 & 3) << 4));
#pragma unroll
  for (int j = 0; j < kLaneCols; ++j) {
    out[j] = __fsub_rn(__fmul_rn(scale, float(bits_at(word, nibble_bit(kNibbleShift, j)) & 15)), minimum);
  }
}

__device__ void values(Q6_K, const Place& at, Eight& out) {
  const uint32_t word = four_bit_word(at);
  const uint32_t upper = reinterpret_cast<const uint32_t*>(at.block + Q6_K::kUpperAt)[at.unit * 32 + at.lane()];
  const float d = scale_at(at.block + Q6_K::kSuperScalesAt + at.row() * 2);
  const char2 scales = reinterpret_cast<const char2*>(at.block + Q6_K::kScalesAt + at.row() * 16)[at.unit];
  const uint32_t shifted = bits_at(upper, upper_bit(0, 0) + 8 * at.half);
#pragma unroll
  for (int j = 0; j < kLaneCols; ++j) {
    const uint32_t low_bits = bits_at(word, nibble_bit(kSixBitShift, j)) & 15;
    const uint32_t upper_bits = bits_at(shifted, upper_bit(0, j) - upper_bit(0, 0)) & 3;
    const float scale = __fmul_rn(d, float(j < Q6_K::kRun ? scales.x : scales.y));
    out[j] = __fmul_rn(scale, float(int(low_bits | upper_bits << 4) - 32));
  }
}

// Writes what is at a place to its columns of `row`, a whole row of the output.
template <class F, class T>
__device__ void store_eight(const Place& at, T* row) {
  Eight all;
  values(F{}, at, all);
#pragma unroll
  for (int j = 0; j < kLaneCols; j += F::kRun) {
    float run[F::kRun];
#pragma unroll
    for (int i = 0; i < F::kRun; ++i) run[i] = all[j + i];
    Pack<T, F::kRun>::of(run).store(row + unit_col<F::kRun>(at.t, j));
  }
}

// The place of column unit `col_unit` (of all of the row) within tile `tile`.
template <class F>
__device__ Place place(const PwQuantised& weight, int tile, int col_unit, int g, int t, int half) {
  const int64_t block = int64_t(tile) * (weight.k / F::kCols) + col_unit / kBlockUnits<F>;
  const uint8_t* bytes = static_cast<const uint8_t*>(weight.weight) + block * kBlockBytes<F>;
  return {bytes, col_unit % kBlockUnits<F>, g, t, half};
}

constexpr int kThreads = 256;

// A thread eight columns of rows g and g + 8 of a tile; neighbouring threads take neighbouring columns.
template <class F, class T>
__global__ void __launch_bounds__(kThreads) expand(const PwQuantisedExpand op) {
  wait_for_previous();
  let_next_start();
  const uint32_t slots = op.weight.k / kLaneCols;
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  const int slot = int(index % slots);
  const int row_pair = int(index / slots);
  const int tile = op.first_row / kTileRows + row_pair / 8, g = row_pair % 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = tile * kTileRows + g + half * 8 - op.first_row;
    if (row < 0 || row >= op.num_rows) continue;
    const int unit = slot / 4;
    T* out = static_cast<T*>(op.out) + int64_t(row) * op.weight.k + unit * kUnitCols;
    store_eight<F, T>(place<F>(op.weight, tile, unit, g, slot % 4, half), out);
  }
}

// A thread eight columns of one token's row.
template <class F, class T>
__global__ void __launch_bounds__(kThreads) embed(const PwQuantisedEmbed op) {
  wait_for_previous();
  let_next_start();
  const uint32_t slots = op.weight.k / kLaneCols;
  const uint32_t index = blockIdx.x * kThreads + threadIdx.x;
  const int slot = int(index % slots), unit = slot / 4;
  const int row = int(index / slots);
  if (row >= op.rows) return;
  int token = op.token_ids[row];
  if (token < 0) token = op.last_sampled[-1 - token];
  const int in_tile = token % kTileRows;
  T* out = static_cast<T*>(op.out) + int64_t(row) * op.weight.k + unit * kUnitCols;
  store_eight<F, T>(place<F>(op.weight, token / kTileRows, unit, in_tile % 8, slot % 4, in_tile / 8), out);
}

// Calls `f(F, Type<T>)` for a weight that is laid out.
template <class G>
PwStatus with_types(const PwQuantised& weight, PwElement element, G&& f) {
  return with_format(weight.format, PW_UNSUPPORTED, [&](auto format) -> PwStatus {
    if (!is_shape<decltype(format)>(weight.n, weight.k) || !is_aligned(weight.weight)) return PW_INVALID;
    return with_element(element, [&](auto type) { return f(format, type); });
  });
}

}  // namespace
}  // namespace quantised
}  // namespace pw

extern "C" PwStatus pw_quantised_expand(const PwQuantisedExpand* op, PwStream stream) {
  using namespace pw;
  using namespace pw::quantised;
  return with_types(op->weight, op->element, [&](auto format, auto type) -> PwStatus {
    if (op->first_row < 0 || op->num_rows < 0 || op->num_rows > op->weight.n - op->first_row) return PW_INVALID;
    if (!is_aligned(op->out)) return PW_INVALID;
    if (op->num_rows == 0) return PW_OK;
    const int first_tile = op->first_row / kTileRows;
    const int64_t row_pairs = int64_t(num_tiles(op->first_row + op->num_rows) - first_tile) * (kTileRows / 2);
    const int64_t grid = num_blocks(row_pairs * (op->weight.k / kLaneCols), kThreads);
    if (grid < 0) return PW_INVALID;
    const auto kernel = expand<decltype(format), typename decltype(type)::type>;
    return launch_dependent(kernel, dim3(uint32_t(grid)), dim3(kThreads), stream, *op);
  });
}

extern "C" PwStatus pw_quantised_embed(const PwQuantisedEmbed* op, PwStream stream) {
  using namespace pw;
  using namespace pw::quantised;
  return with_types(op->weight, op->element, [&](auto format, auto type) -> PwStatus {
    if (op->rows < 0 || !is_aligned(op->out)) return PW_INVALID;
    if (op->rows == 0) return PW_OK;
    const int64_t grid = num_blocks(int64_t(op->rows) * (op->weight.k / kLaneCols), kThreads);
    if (grid < 0) return PW_INVALID;
    const auto kernel = embed<decltype(format), typename decltype(type)::type>;
    return launch_dependent(kernel, dim3(uint32_t(grid)), dim3(kThreads), stream, *op);
  });
}
