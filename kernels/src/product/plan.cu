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

// A tile that may be had.
struct Cut {
  int warpgroups;
  int width;
  int cols;
};

constexpr Cut kCuts[] = {{2, 256, 256}, {2, 224, 224}, {2, 192, 192}, {2, 128, 128}, {2, 96, 96}, {2, 64, 64},
                         {1, 128, 128}, {1, 96, 96},   {1, 64, 64},   {1, 64, 48},   {1, 32, 32}};

// Nanoseconds of a step of 64 elements of k, as an H100 takes them: a multiprocessor fetches 90 bytes a nanosecond, and
// multiplies 64 rows with 2 columns in 3.
int64_t step_ns(const Cut& cut) {
  const int64_t fetch = 20 + int64_t(cut.warpgroups * kWarpgroupRows + cut.cols) * kChunkBytes / 90;
  const int64_t multiply = int64_t(cut.warpgroups) * cut.width * 3 / 2;
  return fetch > multiply ? fetch : multiply;
}

// What a tile takes beside its steps: its sums are stored, and the first step of the next comes late.
constexpr int64_t kTileNs = 2000;

Plan plan_many_rows(const PwProduct& op, int num_multiprocessors) {
  const int64_t steps = div_up(op.k, kChunkElements);
  Cut best = kCuts[0];
  int64_t best_ns = INT64_MAX;
  for (const Cut& cut : kCuts) {
    const int64_t num_tiles = div_up(op.rows, cut.warpgroups * kWarpgroupRows) * div_up(op.n, cut.cols);
    const int64_t ns = div_up(num_tiles, num_multiprocessors) * (steps * step_ns(cut) + kTileNs);
    if (ns < best_ns) best = cut, best_ns = ns;
  }
  constexpr int kGroupRows = 1024;
  return {best.warpgroups, best.width, best.cols, Share::kNothing, 1, kGroupRows / kWarpgroupRows / best.warpgroups, 2};
}

}  // namespace

Plan plan_of(const PwProduct& op, int num_multiprocessors) {
  return op.rows <= kWarpgroupRows ? plan_few_rows(op, num_multiprocessors) : plan_many_rows(op, num_multiprocessors);
}

}  // namespace pw::dense
