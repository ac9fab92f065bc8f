// Chooses a plan: few rows are cut so that reading the weight keeps all multiprocessors busy to the end, many so that
// multiplying does.
#include "common/geometry.cuh"
#include "product/plan.cuh"

namespace pw::dense {
namespace {

// One tile of rows: whole waves of tiles that are equally wide.
Plan plan_few_rows(const PwProduct& op, int num_multiprocessors) {
  constexpr int kWidths[] = {32, 64, 128};
  constexpr int kMaxCols = 128;
  const int multiple = op.end == PW_PRODUCT_GATED ? 16 : 8;
  const int64_t waves = div_up(op.n, int64_t(num_multiprocessors) * kMaxCols);
  const int cols = int(div_up(div_up(op.n, waves * num_multiprocessors), multiple)) * multiple;
  Plan plan = {1, 0, cols, Share::kNothing, 1, 1, 0};
  for (const int width : kWidths) {
    if (plan.width < cols) plan.width = width;
  }
  return plan;
}

// Nanoseconds of 64 elements of k of a tile of 128 rows on an H100, measured: to fetch x and the weight, or to multiply.
int64_t step_ns(int width, int cols) {
  const int64_t fetch = 260 + cols / 3, multiply = 3 * width;
  return fetch > multiply ? fetch : multiply;
}

// What a tile costs beside its steps: its sums are stored, and the first step of the next comes late.
constexpr int64_t kTileNs = 2000;

Plan plan_many_rows(const PwProduct& op, int num_multiprocessors) {
  struct Cut {
    int width, cols;
  };
  constexpr Cut kCuts[] = {{256, 256}, {224, 224}, {192, 192}, {128, 128}, {96, 96}, {64, 64}, {64, 48}, {64, 32}};
  const int64_t down = div_up(op.rows, 2 * kWarpgroupRows), steps = div_up(op.k, kChunkElements);
  Cut best = kCuts[0];
  int64_t best_ns = INT64_MAX;
  for (const Cut& cut : kCuts) {
    const int64_t waves = div_up(down * div_up(op.n, cut.cols), num_multiprocessors);
    const int64_t ns = waves * (steps * step_ns(cut.width, cut.cols) + kTileNs);
    if (ns < best_ns) best = cut, best_ns = ns;
  }
  return {2, best.width, best.cols, Share::kNothing, 1, 8, 2};
}

}  // namespace

Plan plan_of(const PwProduct& op, int num_multiprocessors) {
  return op.rows <= kWarpgroupRows ? plan_few_rows(op, num_multiprocessors) : plan_many_rows(op, num_multiprocessors);
}

}  // namespace pw::dense
