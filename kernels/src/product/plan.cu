// Chooses a plan: few rows are cut so that reading the weight keeps all multiprocessors busy to the end, many so that
// multiplying does.
#include "common/geometry.cuh"
#include "product/plan.cuh"

namespace pw::dense {
namespace {

int64_t round_up(int64_t value, int64_t to) { return div_up(value, to) * to; }

// One tile of rows: whole waves of tiles that are equally wide.
Plan plan_few_rows(const PwProduct& op, int num_multiprocessors) {
  constexpr int kWidths[] = {32, 64, 96, 128};
  constexpr int kMaxCols = 128;
  const int64_t waves = div_up(op.n, int64_t(num_multiprocessors) * kMaxCols);
  const int multiple = op.end == PW_PRODUCT_GATED ? 16 : 8;
  Plan plan = {1, 0, int(round_up(div_up(op.n, waves * num_multiprocessors), multiple)), 1, 1};
  for (const int width : kWidths) {
    if (plan.width < plan.cols) plan.width = width;
  }
  return plan;
}

struct Instance {
  int warpgroups;
  int width;
};

constexpr Instance kInstances[] = {{2, 256}, {2, 224}, {2, 192}, {2, 160}, {2, 128}, {2, 96},
                                   {2, 64},  {1, 128}, {1, 96},  {1, 64},  {1, 32}};

// Nanoseconds of a step of 64 elements of k, as an H100 takes them: a multiprocessor fetches 90 bytes a nanosecond, and
// multiplies 64 rows with 2 columns in 3.
int64_t step_ns(const Instance& instance, int64_t rows, int64_t cols) {
  const int64_t fetch = 20 + (rows + cols) * kChunkBytes / 90;
  const int64_t multiply = int64_t(instance.warpgroups) * instance.width * 3 / 2;
  return fetch > multiply ? fetch : multiply;
}

// What a tile takes beside its steps: its sums are stored, and the first step of the next comes late.
constexpr int64_t kTileNs = 2000;

// The fastest of all instances, each with as few columns as take no more waves.
Plan plan_many_rows(const PwProduct& op, int num_multiprocessors) {
  const int64_t steps = div_up(op.k, kChunkElements);
  Plan plan = {};
  int64_t least_ns = INT64_MAX;
  for (const Instance& instance : kInstances) {
    const int64_t down = div_up(op.rows, instance.warpgroups * kWarpgroupRows);
    const int64_t waves = div_up(down * div_up(op.n, instance.width), num_multiprocessors);
    const int64_t cols = round_up(div_up(op.n, waves * num_multiprocessors / down), 16);
    const int64_t ns = waves * (steps * step_ns(instance, div_up(op.rows, down), cols) + kTileNs);
    if (ns >= least_ns) continue;
    least_ns = ns;
    // Two tiles of a column's many meet at the same step; of few, one would wait for the other.
    const int cluster = instance.warpgroups == 2 && down >= 8 ? 2 : 1;
    plan = {instance.warpgroups, instance.width, int(cols), cluster, 8};
  }
  return plan;
}

}  // namespace

Plan plan_of(const PwProduct& op, int num_multiprocessors) {
  return op.rows <= kWarpgroupRows ? plan_few_rows(op, num_multiprocessors) : plan_many_rows(op, num_multiprocessors);
}

}  // namespace pw::dense
