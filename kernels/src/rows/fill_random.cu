// Random weights for benchmarks. Element i is word i % 4 of the Philox block with counter i / 4, whose top 24 bits are a
// fraction.
#include "common/philox.cuh"
#include "pagewise/rows.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

constexpr int kElements = 8;

__device__ float uniform(uint32_t word, float scale) {
  const float fraction = float(word >> 8) * 0x1p-24f;
  return (2.0f * fraction - 1.0f) * scale;
}

template <class T>
__global__ void __launch_bounds__(kFlatThreads) fill_random(const PwFillRandom op) {
  wait_for_previous();
  let_next_start();
  const int64_t begin = (int64_t(blockIdx.x) * kFlatThreads + threadIdx.x) * kElements;
  const uint2 key = make_uint2(uint32_t(op.seed), uint32_t(op.seed >> 32));
  float values[kElements];
#pragma unroll
  for (int i = 0; i < kElements; i += 4) {
    const uint64_t counter = uint64_t(begin + i) / 4;
    const uint4 words = philox4x32_10(make_uint4(uint32_t(counter), uint32_t(counter >> 32), 0, 0), key);
    values[i] = uniform(words.x, op.scale), values[i + 1] = uniform(words.y, op.scale);
    values[i + 2] = uniform(words.z, op.scale), values[i + 3] = uniform(words.w, op.scale);
  }
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
