// What the host has sent, into the block tables.
#include "pagewise/step.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

__global__ void __launch_bounds__(kFlatThreads) apply_updates(const PwApplyUpdates op, int) {
  wait_for_previous();
  let_next_start();
  const Unit unit = flat_unit(1);
  if (unit.row >= op.num_updates) return;
  const PwTableUpdate update = op.updates[unit.row];
  op.tables[int64_t(update.slot) * op.max_blocks_per_slot + update.index] = update.block;
}

}  // namespace
}  // namespace pw

extern "C" PwStatus pw_apply_updates(const PwApplyUpdates* op, PwStream stream) {
  if (op->num_updates < 0 || op->max_blocks_per_slot <= 0) return PW_INVALID;
  return pw::launch_flat(pw::apply_updates, *op, op->num_updates, 1, stream);
}
