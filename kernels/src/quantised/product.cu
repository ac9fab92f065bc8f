// The launcher of products with quantised weights: how they are cut.
#include "common/geometry.cuh"
#include "common/launch.cuh"
#include "quantised/product.cuh"

namespace pw {
namespace quantised {
namespace {

// Most warps of a CUDA block. Results depend on it: it is the same for all numbers of rows.
constexpr int kMaxWarps = 8;

// Stages of 1 to 2 KiB. Two of them, and three CUDA blocks a processor, keep enough bytes under way and leave the L1 cache
// its share for the activations; unpacking Q4_K takes longer, and gains more from a third stage than from a third block.
template <class F>
struct Usual {
  static constexpr bool kDeep = F::kFormat == PW_Q4_K;
  static constexpr int kStageBlocks = F::kCols == 256 ? 1 : (F::kStoredBytes > 20 ? 4 : 8);
  static constexpr int kBlocks = kDeep ? 2 : 3;
  using C = Cut<F, kDeep ? 3 : 2, kStageBlocks>;
};

template <class F, class T>
PwStatus launch(const PwQuantisedProduct& op, PwStream stream) {
  using C = typename Usual<F>::C;
  const ProductPlan plan = usual_plan<F, C>(op.weight, kMaxWarps, Usual<F>::kBlocks);
  if (op.rows <= kRowsAtOnce) return launch_product<F, T, 1, C, kMaxWarps, Usual<F>::kBlocks>(op, plan, stream);
  return launch_product<F, T, 2, C, kMaxWarps, 2>(op, plan, stream);
}

}  // namespace
}  // namespace quantised
}  // namespace pw

extern "C" PwStatus pw_quantised_product(const PwQuantisedProduct* op, PwStream stream) {
  using namespace pw;
  using namespace pw::quantised;
  return with_format(op->weight.format, PW_UNSUPPORTED, [&](auto f) -> PwStatus {
    using F = decltype(f);
    if (!is_shape<F>(op->weight.n, op->weight.k) || !are_aligned(op->weight.weight, op->x)) return PW_INVALID;
    if (op->rows < 0 || op->rows > PW_MAX_QUANTISED_ROWS) return PW_INVALID;
    if (op->out_element < PW_F32 || op->out_element > PW_BF16) return PW_UNSUPPORTED;
    if (op->rows == 0) return PW_OK;
    return with_half_element(op->element, [&](auto type) {
      return launch<F, typename decltype(type)::type>(*op, stream);
    });
  });
}
