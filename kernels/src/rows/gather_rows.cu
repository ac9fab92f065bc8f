// Rows by index.
#include "pagewise/rows.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

template <class Word>
__global__ void __launch_bounds__(kFlatThreads) gather_rows(const PwGatherRows op, int words) {
  wait_for_previous();
  let_next_start();
  const Unit unit = flat_unit(words);
  if (unit.row >= op.rows) return;
  const int64_t index = op.indices[int64_t(unit.row) * op.index_stride];
  Word word{};
  if (index >= 0) word = static_cast<const Word*>(op.x)[index * words + unit.index];
  static_cast<Word*>(op.out)[int64_t(unit.row) * words + unit.index] = word;
}

}  // namespace
}  // namespace pw

extern "C" PwStatus pw_gather_rows(const PwGatherRows* op, PwStream stream) {
  using namespace pw;
  if (!is_element(op->element)) return PW_UNSUPPORTED;
  if (op->rows < 0 || op->cols <= 0 || op->index_stride <= 0 || !are_aligned(op->x, op->out)) return PW_INVALID;
  const int64_t row_bytes = int64_t(op->cols) * element_bytes(op->element);
  return with_word(row_bytes, [&](auto word) {
    return launch_flat(gather_rows<decltype(word)>, *op, op->rows, row_bytes / int64_t(sizeof(word)), stream);
  });
}
