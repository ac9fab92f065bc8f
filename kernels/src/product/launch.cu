// The entry point of products: checks the params and asks the kernels, the fastest first.
#include "common/geometry.cuh"
#include "product/plan.cuh"

namespace pw::dense {
namespace {

bool is_valid(const PwProduct& op) {
  const bool is_gated = op.end == PW_PRODUCT_GATED;
  const bool has_shape = op.rows >= 0 && op.n > 0 && op.k > 0 && op.k % 8 == 0 && op.n % (is_gated ? 16 : 8) == 0;
  const bool has_out = op.out_stride % 8 == 0 && op.out_stride >= (is_gated ? op.n / 2 : op.n);
  return has_shape && has_out && are_aligned(op.x, op.weight, op.out);
}

bool is_supported(const PwProduct& op) {
  const bool has_elements = op.element == PW_F16 || op.element == PW_BF16;
  const bool stores_sums = op.out_element == PW_F32 && op.end == PW_PRODUCT_STORE;
  return has_elements && (op.out_element == op.element || stores_sums);
}

}  // namespace
}  // namespace pw::dense

extern "C" PwStatus pw_product(const PwProduct* op, PwStream stream) {
  using namespace pw::dense;
  if (!is_valid(*op)) return PW_INVALID;
  if (!is_supported(*op)) return PW_UNSUPPORTED;
  if (op->rows == 0) return PW_OK;
  const PwStatus status = launch_warpgroups(*op, stream);
  return status == PW_UNSUPPORTED ? launch_warps(*op, stream) : status;
}
