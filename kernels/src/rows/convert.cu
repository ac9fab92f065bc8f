// From one element to another.
#include "pagewise/rows.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

// Of a thread: an access of 16 bytes on the narrower side.
constexpr int kElements = 8;

template <class From, class To>
__global__ void __launch_bounds__(kFlatThreads) convert(const From* x, To* out, int64_t num_elements) {
  wait_for_previous();
  let_next_start();
  const int64_t begin = (int64_t(blockIdx.x) * kFlatThreads + threadIdx.x) * kElements;
  if (begin + kElements <= num_elements) {
    float values[kElements];
    Pack<From, kElements>::load(x + begin).unpack(values);
    Pack<To, kElements>::of(values).store(out + begin);
    return;
  }
  for (int64_t i = begin; i < num_elements; ++i) {
    float value[1];
    Pack<From, 1>::load(x + i).unpack(value);
    Pack<To, 1>::of(value).store(out + i);
  }
}

}  // namespace
}  // namespace pw

extern "C" PwStatus pw_convert(const PwConvert* op, PwStream stream) {
  using namespace pw;
  if (!is_element(op->from) || !is_element(op->to)) return PW_UNSUPPORTED;
  if (op->num_elements < 0 || !are_aligned(op->x, op->out)) return PW_INVALID;
  if (op->num_elements == 0) return PW_OK;
  if (op->from == op->to) {
    const size_t bytes = size_t(op->num_elements) * element_bytes(op->from);
    return PwStatus(cudaMemcpyAsync(op->out, op->x, bytes, cudaMemcpyDeviceToDevice, cuda_stream(stream)));
  }
  const int64_t blocks = div_up(op->num_elements, int64_t(kFlatThreads) * kElements);
  if (blocks > INT32_MAX) return PW_INVALID;
  return with_element(op->from, [&](auto from) {
    return with_element(op->to, [&](auto to) {
      using From = typename decltype(from)::type;
      using To = typename decltype(to)::type;
      return launch_dependent(convert<From, To>, dim3(unsigned(blocks)), dim3(kFlatThreads), stream,
                              static_cast<const From*>(op->x), static_cast<To*>(op->out), op->num_elements);
    });
  });
}
