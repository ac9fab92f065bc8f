// Chooses a plan: few rows are cut so that reading the weight keeps all multiprocessors busy to the end, many so that
// multiplying does.
#include "common/geometry.cuh"
#include "product/plan.cuh"

namespace pw::dense {
namespace {

constexpr int kMaxWidth = 256;

int round_up(int64_t value, int to) { return int((value + to - 1) / to * to); }

int width_of(int cols, int smallest) {
  int width = smallest;
  while (width < cols) width *= 2;
  return width;
}

// One tile of rows: whole waves of tiles that are equally wide.
Plan plan_few_rows(const PwProduct& op, int num_multiprocessors) {
  const bool is_gated = op.end == PW_PRODUCT_GATED;
  const int64_t waves = div_up(op.n, int64_t(num_multiprocessors) * kMaxWidth);
  const int cols = round_up(div_up(op.n, waves * num_multiprocessors), is_gated ? 16 : 8);
  return {1, width_of(cols, is_gated ? 64 : 32), cols, Share::kNothing, 1, 1, 0};
}

Plan plan_many_rows(const PwProduct& op, int num_multiprocessors) {
  const int64_t down = div_up(op.rows, 2 * kWarpgroupRows);
  int cols = 256;
  while (cols > 64 && down * div_up(op.n, cols) < num_multiprocessors) cols /= 2;
  const bool is_pair = down % 2 == 0 || down > 8;
  return {2, cols, cols, is_pair ? Share::kWeight : Share::kNothing, is_pair ? 2 : 1, 8, 2};
}

}  // namespace

Plan plan_of(const PwProduct& op, int num_multiprocessors) {
  return op.rows <= kWarpgroupRows ? plan_few_rows(op, num_multiprocessors) : plan_many_rows(op, num_multiprocessors);
}

}  // namespace pw::dense
