// Rows of an embedding table by token.
#include "pagewise/rows.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

template <class Word>
__global__ void __launch_bounds__(kFlatThreads) embed(const PwEmbed op, int words) {
  wait_for_previous();
  let_next_start();
  const Unit unit = flat_unit(words);
  if (unit.row >= op.rows) return;
  int token = op.step.token_ids[unit.row];
  if (token < 0) token = op.last_sampled[-1 - token];
  static_cast<Word*>(op.out)[int64_t(unit.row) * words + unit.index] =
      static_cast<const Word*>(op.table)[int64_t(token) * words + unit.index];
}

}  // namespace
}  // namespace pw

extern "C" PwStatus pw_embed(const PwEmbed* op, PwStream stream) {
  using namespace pw;
  if (!is_element(op->element)) return PW_UNSUPPORTED;
  if (op->rows < 0 || op->cols <= 0 || !are_aligned(op->table, op->out)) return PW_INVALID;
  const int64_t row_bytes = int64_t(op->cols) * element_bytes(op->element);
  return with_word(row_bytes, [&](auto word) {
    return launch_flat(embed<decltype(word)>, *op, op->rows, row_bytes / int64_t(sizeof(word)), stream);
  });
}
