// Random weights: each element a function of the seed and its index alone, so that the host can make the same ones.
#include "pagewise/rows.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

constexpr int kElements = 8;

// The output function of SplitMix64 at state `x`.
__device__ uint64_t split_mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// In [-bound, bound). Exact but for the last product.
__device__ float element_at(uint64_t index, uint64_t seed, float bound) {
  return bound * (float(split_mix64(seed + index) >> 40) * 0x1p-23f - 1.0f);
}

template <class T>
__global__ void __launch_bounds__(kFlatThreads) fill_random(const PwFillRandom op) {
  wait_for_previous();
  let_next_start();
  const int64_t begin = (int64_t(blockIdx.x) * kFlatThreads + threadIdx.x) * kElements;
  float values[kElements];
#pragma unroll
  for (int i = 0; i < kElements; ++i) values[i] = element_at(uint64_t(begin + i), op.seed, op.bound);
  T* out = static_cast<T*>(op.out) + begin;
  if (begin + kElements <= op.num_elements) {
    Pack<T, kElements>::of(values).store(out);
    return;
  }
#pragma unroll
  for (int i = 0; i < kElements; ++i) {
    const float value[1] = {values[i]};
    if (begin + i < op.num_elements) Pack<T, 1>::of(value).store(out + i);
  }
}

}  // namespace
}  // namespace pw

extern "C" PwStatus pw_fill_random(const PwFillRandom* op, PwStream stream) {
  using namespace pw;
  if (op->num_elements < 0 || !are_aligned(op->out)) return PW_INVALID;
  if (op->num_elements == 0) return PW_OK;
  const int64_t blocks = div_up(op->num_elements, int64_t(kFlatThreads) * kElements);
  if (blocks > INT32_MAX) return PW_INVALID;
  return with_element(op->element, [&](auto type) {
    using T = typename decltype(type)::type;
    return launch_dependent(fill_random<T>, dim3(unsigned(blocks)), dim3(kFlatThreads), stream, *op);
  });
}
