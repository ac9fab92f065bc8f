// The gate of a feed-forward layer.
#include "common/silu.cuh"
#include "pagewise/rows.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

template <class T, int N>
__global__ void __launch_bounds__(kFlatThreads) silu_mul(const PwSiluMul op, int packs) {
  wait_for_previous();
  let_next_start();
  const Unit unit = flat_unit(packs);
  if (unit.row >= op.rows) return;
  const T* x = static_cast<const T*>(op.x) + int64_t(unit.row) * 2 * op.cols + unit.index * N;
  const Pack<T, N> gate_pack = Pack<T, N>::load(x), up_pack = Pack<T, N>::load(x + op.cols);
  float gate[N], up[N];
  gate_pack.unpack(gate);
  up_pack.unpack(up);
#pragma unroll
  for (int i = 0; i < N; ++i) up[i] *= silu<T>(gate[i]);
  Pack<T, N>::of(up).store(static_cast<T*>(op.out) + int64_t(unit.row) * op.cols + unit.index * N);
}

template <class T, int N>
PwStatus launch(Type<Pack<T, N>>, const PwSiluMul& op, PwStream stream) {
  return launch_flat(silu_mul<T, N>, op, op.rows, op.cols / N, stream);
}

}  // namespace
}  // namespace pw

extern "C" PwStatus pw_silu_mul(const PwSiluMul* op, PwStream stream) {
  using namespace pw;
  if (op->rows < 0 || op->cols <= 0 || !are_aligned(op->x, op->out)) return PW_INVALID;
  return with_pack(op->element, op->cols, [&](auto pack) { return launch(pack, *op, stream); });
}
