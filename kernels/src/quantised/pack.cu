// From stored rows to the device's layout. It runs once a weight, when a model is loaded.
#include "common/geometry.cuh"
#include "common/launch.cuh"
#include "pagewise/quantised.h"
#include "quantised/layout.cuh"

namespace pw {
namespace quantised {
namespace {

// One stored block; past the last row there are zeros.
struct Stored {
  const uint8_t* bytes;
  __device__ uint32_t operator[](int at) const { return bytes == nullptr ? 0 : bytes[at]; }
};

// The integer of one column, unsigned as it is stored.
__device__ uint32_t nibble(Stored block, int at, int col) { return block[at + col % 16] >> (col / 16 * 4) & 15; }
__device__ uint32_t quant(Q4_0, Stored block, int col) { return nibble(block, 2, col); }
__device__ uint32_t quant(Q4_1, Stored block, int col) { return nibble(block, 4, col); }
__device__ uint32_t quant(Q8_0, Stored block, int col) { return block[2 + col]; }
__device__ uint32_t quant(Q4_K, Stored block, int col) {
  return block[16 + col / 64 * 32 + col % 32] >> (col / 32 % 2 * 4) & 15;
}
__device__ uint32_t quant(Q6_K, Stored block, int col) {
  const int half = col / 128, run = col / 32 % 4, l = col % 32;
  const uint32_t low = block[half * 64 + run % 2 * 32 + l] >> (run / 2 * 4) & 15;
  return low | (block[128 + half * 32 + l] >> (run * 2) & 3) << 4;
}

__device__ uint32_t rotate_left(uint32_t value, int by) { return __funnelshift_l(value, value, by); }

// Where lane and half say which row and columns; `j_of` is the bit of the lane's j-th column.
template <class F, class BitOf>
__device__ uint32_t gather_bits(F format, Stored block, int unit, int lane, int first, int num, int drop, uint32_t mask,
                                BitOf bit_of) {
  uint32_t word = 0;
  for (int j = first; j < first + num; ++j) {
    const int col = unit * kUnitCols + unit_col<F::kRun>(lane % 4, j);
    word |= rotate_left(quant(format, block, col) >> drop & mask, bit_of(j));
  }
  return word;
}

// What one lane holds of one half (row g or g + 8) of one unit. Each half writes its own bytes.
template <class F>
__device__ void pack_quants(F format, Stored block, int unit, int lane, int half, uint8_t* to) {
  const int slot = (unit * 32 + lane) * 2 + half;
  const auto nibble_at = [](int j) { return nibble_bit(kNibbleShift, j); };
  reinterpret_cast<uint32_t*>(to)[slot] = gather_bits(format, block, unit, lane, 0, kLaneCols, 0, 15, nibble_at);
}

__device__ void pack_quants(Q8_0 format, Stored block, int unit, int lane, int half, uint8_t* to) {
  uint32_t* words = reinterpret_cast<uint32_t*>(to) + (lane * 2 + half) * 2;
  for (int i = 0; i < 2; ++i) {
    words[i] = gather_bits(format, block, unit, lane, 4 * i, 4, 0, 255, [](int j) { return byte_bit(j % 4); });
  }
}

__device__ void pack_quants(Q6_K format, Stored block, int unit, int lane, int half, uint8_t* to) {
  const int slot = unit * 32 + lane;
  const auto low_at = [](int j) { return nibble_bit(kSixBitShift, j); };
  reinterpret_cast<uint32_t*>(to)[slot * 2 + half] =
      gather_bits(format, block, unit, lane, 0, kLaneCols, 0, 15, low_at);
  // The two halves share a word; the lane of the lower one writes it, and reads the other row as well (see pack_upper).
}

// The upper bits of both rows of a lane.
__device__ void pack_upper(Stored low_row, Stored high_row, int unit, int lane, uint8_t* to) {
  uint32_t word = 0;
  for (int half = 0; half < 2; ++half) {
    const auto upper_at = [half](int j) { return upper_bit(half, j); };
    word |= gather_bits(Q6_K{}, half == 0 ? low_row : high_row, unit, lane, 0, kLaneCols, 4, 3, upper_at);
  }
  reinterpret_cast<uint32_t*>(to + Q6_K::kUpperAt)[unit * 32 + lane] = word;
}

__device__ void copy_bytes(Stored block, int from, int num, uint8_t* to) {
  for (int i = 0; i < num; ++i) to[i] = uint8_t(block[from + i]);
}

// Scales of row r of the tile.
__device__ void pack_scales(Q4_0, Stored block, int r, uint8_t* scales) {
  copy_bytes(block, 0, 2, scales + (r % 8 * 2 + r / 8) * 2);
}
__device__ void pack_scales(Q8_0, Stored block, int r, uint8_t* scales) { pack_scales(Q4_0{}, block, r, scales); }
__device__ void pack_scales(Q4_1, Stored block, int r, uint8_t* scales) {
  copy_bytes(block, 0, 2, scales + r % 8 * 8 + r / 8 * 2);
  copy_bytes(block, 2, 2, scales + r % 8 * 8 + 4 + r / 8 * 2);
}
__device__ void pack_scales(Q4_K, Stored block, int r, uint8_t* scales) {
  uint8_t* to = scales + r * 16;
  copy_bytes(block, 0, 4, to);
  // As stored: for units 0 to 3 the low six bits of bytes j and j + 4; for the others nibbles of byte j + 4 and the top two
  // bits of the bytes of the first four.
  const auto scale = [&](int j) {
    return j < 4 ? block[4 + j] & 63 : (block[8 + j] & 15) | (block[j] >> 6) << 4;
  };
  const auto minimum = [&](int j) {
    return j < 4 ? block[8 + j] & 63 : block[8 + j] >> 4 | (block[4 + j] >> 6) << 4;
  };
  for (int t = 0; t < 4; ++t) {
    const uint32_t values[4] = {scale(2 * t), minimum(2 * t), scale(2 * t + 1), minimum(2 * t + 1)};
    uint32_t low = 0, upper = 0;
    for (int i = 0; i < 4; ++i) {
      low |= (values[i] & 15) << (4 * i);
      upper |= values[i] >> 4 << (2 * i);
    }
    reinterpret_cast<uint16_t*>(to + 4)[t] = uint16_t(low);
    to[12 + t] = uint8_t(upper);
  }
}
__device__ void pack_scales(Q6_K, Stored block, int r, uint8_t* scales) {
  copy_bytes(block, 192, 16, scales + r * 16);
  copy_bytes(block, 208, 2, scales + Q6_K::kSuperScalesAt - Q6_K::kScalesAt + r * 2);
}

constexpr int kThreads = 64;

// A thread a lane and half, a CUDA block a device block.
template <class F>
__global__ void __launch_bounds__(kThreads) pack(const PwQuantisedPack op) {
  const int blocks = op.k / F::kCols;
  const int tile = blockIdx.x / blocks, block = blockIdx.x % blocks;
  const auto stored = [&](int r) {
    const int64_t row = int64_t(tile) * kTileRows + r;
    const uint8_t* from = static_cast<const uint8_t*>(op.stored) + (row * blocks + block) * F::kStoredBytes;
    return Stored{row < op.n ? from : nullptr};
  };
  uint8_t* to = static_cast<uint8_t*>(op.weight) + int64_t(blockIdx.x) * kBlockBytes<F>;
  const int lane = threadIdx.x % 32, half = threadIdx.x / 32;
  for (int unit = 0; unit < kBlockUnits<F>; ++unit) {
    pack_quants(F{}, stored(lane / 4 + 8 * half), unit, lane, half, to);
    if constexpr (F::kFormat == PW_Q6_K) {
      if (half == 0) pack_upper(stored(lane / 4), stored(lane / 4 + 8), unit, lane, to);
    }
  }
  if (threadIdx.x < kTileRows) pack_scales(F{}, stored(threadIdx.x), threadIdx.x, to + F::kScalesAt);
}

// A product reads its weight before the kernel ahead of it has ended (common/dependent.cuh). This one stands between.
__global__ void separate() {}

}  // namespace
}  // namespace quantised
}  // namespace pw

extern "C" int64_t pw_quantised_bytes(PwWeightFormat format, int32_t n, int32_t k) {
  using namespace pw::quantised;
  return with_format(format, int64_t(-1), [&](auto f) -> int64_t {
    using F = decltype(f);
    if (!is_shape<F>(n, k)) return -1;
    return int64_t(num_tiles(n)) * (k / F::kCols) * kBlockBytes<F>;
  });
}

extern "C" PwStatus pw_quantised_pack(const PwQuantisedPack* op, PwStream stream) {
  using namespace pw;
  using namespace pw::quantised;
  return with_format(op->format, PW_UNSUPPORTED, [&](auto f) -> PwStatus {
    using F = decltype(f);
    if (!is_shape<F>(op->n, op->k) || !is_aligned(op->weight)) return PW_INVALID;
    const int64_t blocks = int64_t(num_tiles(op->n)) * (op->k / F::kCols);
    if (blocks > INT32_MAX) return PW_INVALID;
    pack<F><<<uint32_t(blocks), kThreads, 0, cuda_stream(stream)>>>(*op);
    separate<<<1, 32, 0, cuda_stream(stream)>>>();
    return launched();
  });
}
