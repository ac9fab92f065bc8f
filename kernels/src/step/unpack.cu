// Takes over a step's inputs from page-locked host memory. Knows words, not what they mean.
#include "common/launch.cuh"
#include "pagewise/step.h"

namespace {

constexpr int kThreads = 256;

// One thread a word, over all segments one after another. A step has a few thousand words: the time is one trip over PCIe.
__global__ void __launch_bounds__(kThreads) unpack_kernel(PwUnpack op) {
  int word = blockIdx.x * kThreads + threadIdx.x;
  for (int s = 0; s < op.num_segments; ++s) {
    PwSegment segment = op.segments[s];
    if (word < segment.num_words) {
      op.arrays[segment.to + word] = op.staging[segment.from + word];
      return;
    }
    word -= segment.num_words;
  }
}

}  // namespace

extern "C" PwStatus pw_unpack(const PwUnpack* op, PwStream stream) {
  if (op->num_segments < 0 || op->num_segments > PW_MAX_SEGMENTS) return PW_INVALID;
  int words = 0;
  for (int s = 0; s < op->num_segments; ++s) words += op->segments[s].num_words;
  if (words == 0) return PW_OK;
  unpack_kernel<<<(words + kThreads - 1) / kThreads, kThreads, 0, pw::cuda_stream(stream)>>>(*op);
  return pw::launched();
}
