// Sizes of grids, and what a launcher checks of its pointers. Host code; knows no op.
#pragma once

#include <cstdint>

#include "common/vector.cuh"

namespace pw {

inline int64_t div_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Whether an access of 16 bytes may begin here, and anywhere that is a multiple of 16 bytes on.
inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % kAccessBytes == 0; }

template <class... Pointers>
bool are_aligned(Pointers... pointers) {
  return (is_aligned(pointers) && ...);
}

// Blocks of `threads` for one thread a unit; -1 if there are too many units to number them in 31 bits.
inline int64_t num_blocks(int64_t units, int threads) { return units > INT32_MAX - threads ? -1 : div_up(units, threads); }

}  // namespace pw
