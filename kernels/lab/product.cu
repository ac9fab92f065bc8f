// Lab of dense products: checks every kernel against float64 and the bits of a row at every number of rows, then times them
// beside cuBLAS, if the machine has it, and the card's copy rate.
#include "product_bench.cuh"

using namespace lab;

namespace {

using Launch = std::function<PwStatus(const PwProduct&)>;

// Whether it ran: a card without the kernel skips it.
bool check_one(const std::string& name, Problem& problem, const Launch& launch) {
  problem.reset();
  const PwStatus status = launch(problem.op);
  if (status == PW_UNSUPPORTED) return false;
  LAB_OK(status);
  LAB_CUDA(cudaDeviceSynchronize());
  const double error = problem.error();
  const bool holds = problem.margins_hold();
  const PwProduct& op = problem.op;
  char what[160];
  std::snprintf(what, sizeof what, "%s %s%s %d x %d x %d%s", name.c_str(), name_of(op.end),
                op.element == PW_F16 ? " f16" : op.out_element == PW_F32 ? " sums" : "", op.rows, op.n, op.k,
                holds ? "" : " OUTSIDE");
  check(what, holds ? error : INFINITY, op.out_element == PW_F32 ? 1e-5 : op.element == PW_F16 ? 6e-4 : 4e-3);
  return true;
}

const std::vector<Plan>& test_plans() {
  static const std::vector<Plan> plans = {
      {1, 32, 32, 1, 1},  {1, 64, 40, 1, 1},   {1, 96, 96, 1, 1},   {1, 128, 112, 1, 3}, {1, 64, 64, 2, 1}, {2, 64, 64, 1, 2},
      {2, 96, 80, 1, 1},  {2, 128, 128, 2, 2}, {2, 160, 144, 1, 3}, {2, 192, 192, 2, 8}, {2, 224, 224, 1, 2}, {2, 256, 256, 1, 1},
      {2, 256, 256, 2, 8}};
  return plans;
}

void check_values(bool is_short) {
  struct Shape {
    int rows, n, k;
  };
  std::vector<Shape> shapes = {{1, 16, 8}, {7, 48, 72}, {64, 208, 256}, {130, 528, 200}, {300, 272, 640}};
  if (!is_short) shapes.insert(shapes.end(), {{16, 6144, 4096}, {257, 4096, 1024}, {1000, 2064, 1032}, {2048, 1024, 512}});
  struct End {
    PwElement element, out_element;
    PwProductEnd end;
  };
  const End ends[] = {{PW_BF16, PW_BF16, PW_PRODUCT_STORE}, {PW_F16, PW_F16, PW_PRODUCT_STORE},
                      {PW_BF16, PW_F32, PW_PRODUCT_STORE},  {PW_BF16, PW_BF16, PW_PRODUCT_ADD},
                      {PW_F16, PW_F16, PW_PRODUCT_ADD},     {PW_BF16, PW_BF16, PW_PRODUCT_GATED}};
  for (const Shape& shape : shapes) {
    for (const End& end : ends) {
      Problem problem(shape.rows, shape.n, shape.k, end.element, end.out_element, end.end);
      check_one("entry", problem, [](const PwProduct& op) { return pw_product(&op, nullptr); });
      check_one("warps", problem, [](const PwProduct& op) { return launch_warps(op, nullptr); });
      if (end.element == PW_F16 && end.end == PW_PRODUCT_STORE) continue;
      for (const Plan& plan : test_plans()) {
        if (!takes(plan, end.end)) continue;
        check_one(name_of(plan), problem, [&](const PwProduct& op) { return launch_warpgroups(op, plan, nullptr); });
      }
    }
  }
}

// The rows of products of few rows have the bits of the same rows among many.
void check_bits(int n, int k, PwElement out_element, PwProductEnd end) {
  constexpr int kMostRows = 1024;
  Problem many(kMostRows, n, k, PW_BF16, out_element, end);
  // Whose zeros have a sign that the order of sums may change.
  LAB_CUDA(cudaMemset(many.x.get(), 0, size_t(2) * k * sizeof(uint16_t)));
  many.reset();
  LAB_OK(pw_product(&many.op, nullptr));
  Device<uint8_t> out(many.out.len());
  Device<int> num(1);
  const int stride = int(many.op.out_stride) * element_bytes(out_element);
  auto compare = [&](const std::string& name, int rows, const Launch& launch) {
    PwProduct op = many.op;
    op.rows = rows;
    op.out = out.get();
    LAB_CUDA(cudaMemcpy(out.get(), many.before.get(), out.len(), cudaMemcpyDeviceToDevice));
    const PwStatus status = launch(op);
    if (status == PW_UNSUPPORTED) return;
    LAB_OK(status);
    num.zero();
    const int bytes = many.columns * element_bytes(out_element);
    differ_kernel<<<dim3((bytes + 127) / 128, rows), 128>>>(many.out.get(), out.get(), stride, stride, bytes, num.get());
    char what[160];
    std::snprintf(what, sizeof what, "bits %s %s%s %d of %d x %d x %d", name.c_str(), name_of(end),
                  out_element == PW_F32 ? " sums" : "", rows, kMostRows, n, k);
    check(what, num.read()[0], 0);
  };
  for (int rows : {1, 2, 7, 8, 16, 63, 64, 65, 128, 200, 256, 300, 511, 1024}) {
    compare("entry", rows, [](const PwProduct& op) { return pw_product(&op, nullptr); });
  }
  for (const Plan& plan : test_plans()) {
    if (!takes(plan, end)) continue;
    compare(name_of(plan), 200, [&](const PwProduct& op) { return launch_warpgroups(op, plan, nullptr); });
  }
}

// ---- times

void time_all() {
  std::printf("copy %.2f TB/s\n", copy_rate_tbps());
  Blas blas;
  std::printf("cuBLAS %s\n", blas.is_there() ? "found" : "not found");
  Bench bench(blas);
  const std::vector<Plan> large = {{2, 256, 256, 1, 8}, {2, 256, 256, 2, 8}};
  for (const Pace pace : {Pace::kRested, Pace::kBusy}) {
    std::printf("%s\n", pace == Pace::kRested ? "rested" : "busy");
    bench.pace = pace;
    bench.time(8192, 8192, 8192, PW_PRODUCT_STORE, PW_BF16, large);
    bench.time(2048, 4096, 4096, PW_PRODUCT_ADD, PW_BF16, large);
    bench.time(2048, 6144, 4096, PW_PRODUCT_STORE, PW_BF16, large);
    bench.time(2048, 28672, 4096, PW_PRODUCT_GATED, PW_BF16, large);
    bench.time(2048, 4096, 14336, PW_PRODUCT_ADD, PW_BF16, large);
  }
  for (int rows : {1, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 4096}) {
    bench.time(rows, 4096, 4096, PW_PRODUCT_ADD, PW_BF16, {});
    bench.time(rows, 6144, 4096, PW_PRODUCT_STORE, PW_BF16, {});
    bench.time(rows, 28672, 4096, PW_PRODUCT_GATED, PW_BF16, rows > 64 ? large : std::vector<Plan>{});
    bench.time(rows, 4096, 14336, PW_PRODUCT_ADD, PW_BF16, {});
    if (rows <= 256) bench.time(rows, 128256, 4096, PW_PRODUCT_STORE, PW_F32, {});
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_check = argc > 1 && std::strcmp(argv[1], "--check") == 0;
  check_values(is_check);
  if (!is_check) {
    check_bits(4096, 4096, PW_BF16, PW_PRODUCT_STORE);
    check_bits(4096, 4096, PW_BF16, PW_PRODUCT_ADD);
    check_bits(6144, 1032, PW_F32, PW_PRODUCT_STORE);
    check_bits(28672, 1024, PW_BF16, PW_PRODUCT_GATED);
    check_bits(1024, 576, PW_BF16, PW_PRODUCT_STORE);
  }
  std::printf("%d failures\n", failures());
  if (!is_check && failures() == 0) time_all();
  return failures() > 0;
}
