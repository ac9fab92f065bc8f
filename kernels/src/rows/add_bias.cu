// A bias on every row.
#include "pagewise/rows.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

template <class T, int N>
__global__ void __launch_bounds__(kFlatThreads) add_bias(const PwAddBias op, int packs) {
  const Unit unit = flat_unit(packs);
  float bias[N] = {};
  if (unit.row < op.rows) Pack<float, N>::load(op.bias + unit.index * N).unpack(bias);
  wait_for_previous();
  let_next_start();
  if (unit.row >= op.rows) return;
  T* x = static_cast<T*>(op.x) + int64_t(unit.row) * op.cols + unit.index * N;
  float values[N];
  Pack<T, N>::load(x).unpack(values);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] += bias[i];
  Pack<T, N>::of(values).store(x);
}

template <class T, int N>
PwStatus launch(Type<Pack<T, N>>, const PwAddBias& op, PwStream stream) {
  return launch_flat(add_bias<T, N>, op, op.rows, op.cols / N, stream);
}

}  // namespace
}  // namespace pw

extern "C" PwStatus pw_add_bias(const PwAddBias* op, PwStream stream) {
  using namespace pw;
  if (op->rows < 0 || op->cols <= 0 || !are_aligned(op->x, op->bias)) return PW_INVALID;
  return with_pack(op->element, op->cols, [&](auto pack) { return launch(pack, *op, stream); });
}
