// The launcher of products with quantised weights: how they are cut.
#include "common/geometry.cuh"
#include "common/launch.cuh"
#include "quantised/product.cuh"

namespace pw {
namespace quantised {
namespace {

template <class F>
constexpr int kUsualStageBlocks = F::kCols == 256 ? 1 : (F::kStoredBytes > 20 ? 4 : 8);
template <class F>
using UsualCut = Cut<F, 2, kUsualStageBlocks<F>>;

template <class F, class T>
PwStatus launch(const PwQuantisedProduct& op, PwStream stream) {
  const ProductPlan plan = usual_plan<F, UsualCut<F>>(op.weight, 8, 3);
  if (op.rows <= kRowsAtOnce) return launch_product<F, T, 1, UsualCut<F>, 8, 3>(op, plan, stream);
  return launch_product<F, T, 2, UsualCut<F>, 8, 2>(op, plan, stream);
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
