// Ops whose work falls into equal, independent units of a row: one thread a unit, numbered row by row, so that narrow rows
// share a block and a single wide one is spread over many.
#pragma once

#include "common/dependent.cuh"
#include "common/geometry.cuh"

namespace pw {

constexpr int kFlatThreads = 256;

// A thread's unit.
struct Unit {
  int row;
  int index;
};

__device__ inline Unit flat_unit(int units_per_row) {
  const unsigned unit = blockIdx.x * kFlatThreads + threadIdx.x;
  const unsigned row = unit / unsigned(units_per_row);
  return {int(row), int(unit - row * unsigned(units_per_row))};
}

// Launches `kernel(op, units_per_row)` over all rows.
template <class Op>
PwStatus launch_flat(void (*kernel)(Op, int), const Op& op, int rows, int64_t units_per_row, PwStream stream) {
  if (rows == 0) return PW_OK;
  const int64_t blocks = num_blocks(rows * units_per_row, kFlatThreads);
  if (blocks < 0) return PW_INVALID;
  return launch_dependent(kernel, dim3(unsigned(blocks)), dim3(kFlatThreads), stream, op, int(units_per_row));
}

// Calls `f` with a value of the widest word that divides the row's bytes.
template <class F>
PwStatus with_word(int64_t row_bytes, F&& f) {
  if (row_bytes % 16 == 0) return f(uint4{});
  if (row_bytes % 4 == 0) return f(uint32_t{});
  return f(uint16_t{});
}

// Calls `f` with a pack's type: the widest access if it divides a row, else single elements.
template <class F>
PwStatus with_pack(PwElement element, int cols, F&& f) {
  return with_element(element, [&](auto type) {
    using T = typename decltype(type)::type;
    if (cols % kWidth<T> == 0) return f(Type<Pack<T, kWidth<T>>>{});
    return f(Type<Pack<T, 1>>{});
  });
}

inline int element_bytes(PwElement element) { return element == PW_F32 ? 4 : 2; }

inline bool is_element(PwElement element) { return element == PW_F32 || element == PW_F16 || element == PW_BF16; }

}  // namespace pw
