// Whole blocks of the KV pool.
#include "pagewise/rows.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

// Of a thread, all in flight before the first is written.
constexpr int kWordsPerThread = 4;

template <class Word>
__global__ void __launch_bounds__(kFlatThreads) copy_blocks(const PwCopyBlocks op, int64_t words) {
  wait_for_previous();
  let_next_start();
  const int32_t* copy = op.copies + 2 * blockIdx.x;
  const Word* from = static_cast<const Word*>(op.pool) + copy[0] * words;
  Word* to = static_cast<Word*>(op.pool) + copy[1] * words;
  const int64_t begin = int64_t(blockIdx.y) * kFlatThreads * kWordsPerThread + threadIdx.x;
  Word word[kWordsPerThread];
#pragma unroll
  for (int i = 0; i < kWordsPerThread; ++i) {
    if (begin + i * kFlatThreads < words) word[i] = from[begin + i * kFlatThreads];
  }
#pragma unroll
  for (int i = 0; i < kWordsPerThread; ++i) {
    if (begin + i * kFlatThreads < words) to[begin + i * kFlatThreads] = word[i];
  }
}

}  // namespace
}  // namespace pw

extern "C" PwStatus pw_copy_blocks(const PwCopyBlocks* op, PwStream stream) {
  using namespace pw;
  constexpr int64_t kMaxGridY = 65535;
  if (op->num_copies < 0 || op->block_bytes <= 0 || op->block_bytes % 4 != 0 || !are_aligned(op->pool)) return PW_INVALID;
  if (op->num_copies == 0) return PW_OK;
  return with_word(op->block_bytes, [&](auto word) {
    const int64_t words = op->block_bytes / int64_t(sizeof(word));
    const int64_t chunks = div_up(words, kFlatThreads * kWordsPerThread);
    if (chunks > kMaxGridY) return PwStatus(PW_INVALID);
    return launch_dependent(copy_blocks<decltype(word)>, dim3(unsigned(op->num_copies), unsigned(chunks)),
                            dim3(kFlatThreads), stream, *op, words);
  });
}
