// Lab of dense products: checks every kernel against float64 and the bits of a row at every number of rows, then times them
// beside cuBLAS, if the machine has it, and the card's copy rate.
#include <dlfcn.h>

#include <memory>
#include <string>

#include "lab.cuh"
#include "product/plan.cuh"

using namespace pw::dense;

namespace {

int element_bytes(PwElement element) { return element == PW_F32 ? 4 : 2; }

const char* name_of(PwProductEnd end) {
  return end == PW_PRODUCT_ADD ? "add" : end == PW_PRODUCT_GATED ? "gated" : "store";
}

std::string name_of(const Plan& plan) {
  char text[80];
  const char* share = plan.share == Share::kX ? "x" : plan.share == Share::kWeight ? "w" : "-";
  std::snprintf(text, sizeof text, "%dx64x%d/%d %s%d g%d l%d", plan.warpgroups, plan.cols, plan.width, share, plan.cluster,
                plan.group, plan.lag);
  return text;
}

// ---- random numbers and float64 on the device: products of these sizes take minutes on the host

__device__ uint64_t mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Bell-shaped, of deviation `scale`.
__global__ void fill_kernel(uint16_t* out, size_t len, uint64_t seed, float scale, PwElement element) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < len; i += size_t(gridDim.x) * blockDim.x) {
    const uint64_t bits = mix((seed << 40) + i + 1);
    float sum = 0;
    for (int part = 0; part < 4; ++part) sum += float(bits >> (16 * part) & 0xffff) / 65536.0f - 0.5f;
    const float value = sum * 1.7320508f * scale;
    out[i] = element == PW_BF16 ? __bfloat16_as_ushort(__float2bfloat16_rn(value)) : __half_as_ushort(__float2half_rn(value));
  }
}

void fill(const lab::Device<uint16_t>& out, uint64_t seed, float scale, PwElement element) {
  fill_kernel<<<1024, 256>>>(out.get(), out.len(), seed, scale, element);
  LAB_CUDA(cudaGetLastError());
}

__device__ double value_of(const void* data, size_t i, PwElement element) {
  if (element == PW_F32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return element == PW_BF16 ? __uint_as_float(uint32_t(bits) << 16) : __half2float(__ushort_as_half(bits));
}

__device__ double dot(const PwProduct& op, int row, int column) {
  double sum = 0;
  for (int i = 0; i < op.k; ++i) {
    sum += value_of(op.x, size_t(row) * op.k + i, op.element) * value_of(op.weight, size_t(column) * op.k + i, op.element);
  }
  return sum;
}

// errors[0] += |out - expected|^2, errors[1] += |expected|^2 over every `every`-th row; `before` is what `out` held.
__global__ void compare_kernel(PwProduct op, const void* before, int every, double* errors) {
  const int columns = op.end == PW_PRODUCT_GATED ? op.n / 2 : op.n;
  const int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * every;
  if (column >= columns) return;
  const size_t at = row * size_t(op.out_stride) + column;
  double expected = dot(op, row, column);
  if (op.end == PW_PRODUCT_GATED) expected = expected / (1 + exp(-expected)) * dot(op, row, column + columns);
  if (op.end == PW_PRODUCT_ADD) expected += value_of(before, at, op.out_element);
  const double difference = value_of(op.out, at, op.out_element) - expected;
  atomicAdd(&errors[0], isfinite(difference) ? difference * difference : INFINITY);
  atomicAdd(&errors[1], expected * expected);
}

// num[0] += elements of so many columns that differ.
__global__ void differ_kernel(const uint8_t* a, const uint8_t* b, int64_t a_stride, int64_t b_stride, int bytes, int* num) {
  const int at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at < bytes && a[blockIdx.y * a_stride + at] != b[blockIdx.y * b_stride + at]) atomicAdd(num, 1);
}

// ---- a problem: random operands and an output with a margin

struct Problem {
  PwProduct op = {};
  lab::Device<uint16_t> x, weight, before;
  lab::Device<uint8_t> out;
  int columns;

  Problem(int rows, int n, int k, PwElement element, PwElement out_element, PwProductEnd end, int margin = 8)
      : x(size_t(rows) * k), weight(size_t(n) * k), columns(end == PW_PRODUCT_GATED ? n / 2 : n) {
    op = {x.get(), weight.get(), nullptr, columns + margin, rows, n, k, element, out_element, end, PW_WEIGHT_SETTLED};
    out = lab::Device<uint8_t>(size_t(rows + 1) * op.out_stride * element_bytes(out_element));
    before = lab::Device<uint16_t>(out.len() / 2);
    op.out = out.get();
    fill(x, 1, 1.0f, element);
    fill(weight, 2, 1.0f / std::sqrt(float(k)), element);
    fill(before, 3, 1.0f, element);
    LAB_CUDA(cudaDeviceSynchronize());
  }

  // Poison where the product overwrites, and old values where it adds.
  void reset() {
    if (op.end == PW_PRODUCT_ADD) {
      LAB_CUDA(cudaMemcpy(out.get(), before.get(), out.len(), cudaMemcpyDeviceToDevice));
    } else {
      out.poison();
    }
  }

  double error() {
    lab::Device<double> errors(2);
    errors.zero();
    const int every = std::max(1, op.rows / 40);
    compare_kernel<<<dim3((columns + 127) / 128, (op.rows + every - 1) / every), 128>>>(op, before.get(), every, errors.get());
    LAB_CUDA(cudaGetLastError());
    const std::vector<double> sums = errors.read();
    return std::sqrt(sums[0] / std::max(sums[1], 1e-300));
  }

  // Whether nothing was written beyond the rows and columns.
  bool margins_hold() {
    lab::Device<uint8_t> expected(out.len());
    if (op.end == PW_PRODUCT_ADD) {
      LAB_CUDA(cudaMemcpy(expected.get(), before.get(), out.len(), cudaMemcpyDeviceToDevice));
    } else {
      expected.poison();
    }
    const int bytes = element_bytes(op.out_element), stride = int(op.out_stride) * bytes, used = columns * bytes;
    lab::Device<int> num(1);
    num.zero();
    differ_kernel<<<dim3((stride - used + 127) / 128, op.rows), 128>>>(out.get() + used, expected.get() + used, stride, stride,
                                                                       stride - used, num.get());
    const size_t end = size_t(op.rows) * stride;
    differ_kernel<<<dim3((stride + 127) / 128, 1), 128>>>(out.get() + end, expected.get() + end, stride, stride, stride,
                                                          num.get());
    return num.read()[0] == 0;
  }
};

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
  lab::check(what, holds ? error : INFINITY, op.out_element == PW_F32 ? 1e-5 : op.element == PW_F16 ? 6e-4 : 4e-3);
  return true;
}

const std::vector<Plan>& test_plans() {
  static const std::vector<Plan> plans = {
      {1, 32, 32, Share::kNothing, 1, 1},   {1, 64, 48, Share::kNothing, 1, 1},  {1, 128, 96, Share::kNothing, 1, 1},
      {1, 64, 64, Share::kX, 2, 1},         {1, 128, 112, Share::kX, 4, 1},      {2, 64, 64, Share::kNothing, 1, 2, 3},
      {2, 64, 32, Share::kX, 4, 2},         {2, 128, 128, Share::kWeight, 2, 2}, {2, 256, 256, Share::kWeight, 2, 8, 2},
      {2, 192, 192, Share::kNothing, 1, 8}, {2, 256, 256, Share::kX, 2, 4},      {2, 96, 96, Share::kNothing, 1, 2, 1},
      {2, 224, 224, Share::kNothing, 1, 2, 2},
  };
  return plans;
}

bool takes(const Plan& plan, PwProductEnd end) {
  return end != PW_PRODUCT_GATED || (plan.cols % 16 == 0 && (plan.share != Share::kWeight || plan.cluster == 2));
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
  lab::Device<uint8_t> out(many.out.len());
  lab::Device<int> num(1);
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
    lab::check(what, num.read()[0], 0);
  };
  for (int rows : {1, 2, 7, 8, 16, 63, 64, 65, 128, 200, 256, 300, 511, 1024}) {
    compare("entry", rows, [](const PwProduct& op) { return pw_product(&op, nullptr); });
  }
  for (const Plan& plan : test_plans()) {
    if (!takes(plan, end)) continue;
    compare(name_of(plan), 200, [&](const PwProduct& op) { return launch_warpgroups(op, plan, nullptr); });
  }
}

// ---- cuBLAS, if it can be loaded

class Blas {
 public:
  Blas() {
    for (const char* name : {"libcublas.so.13", "/usr/local/cuda/lib64/libcublas.so.13", "libcublas.so"}) {
      if (library_ == nullptr) library_ = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    }
    if (library_ == nullptr) return;
    const auto create = reinterpret_cast<int (*)(void**)>(dlsym(library_, "cublasCreate_v2"));
    set_stream_ = reinterpret_cast<int (*)(void*, cudaStream_t)>(dlsym(library_, "cublasSetStream_v2"));
    set_workspace_ = reinterpret_cast<int (*)(void*, void*, size_t)>(dlsym(library_, "cublasSetWorkspace_v2"));
    gemm_ = reinterpret_cast<Gemm>(dlsym(library_, "cublasGemmEx"));
    if (create == nullptr || set_stream_ == nullptr || gemm_ == nullptr || create(&handle_) != 0) library_ = nullptr;
    if (library_ != nullptr) workspace_ = lab::Device<uint8_t>(32 << 20);
  }
  bool is_there() const { return library_ != nullptr; }

  void multiply(const PwProduct& op, cudaStream_t stream) {
    constexpr int kNoTranspose = 0, kTranspose = 1, kBf16 = 14, kF32 = 0, kComputeF32 = 68, kDefault = -1;
    const float one = 1, factor = op.end == PW_PRODUCT_ADD ? 1 : 0;
    set_stream_(handle_, stream);
    set_workspace_(handle_, workspace_.get(), workspace_.len());
    const int out_type = op.out_element == PW_F32 ? kF32 : kBf16;
    const int status = gemm_(handle_, kTranspose, kNoTranspose, op.n, op.rows, op.k, &one, op.weight, kBf16, op.k, op.x, kBf16,
                             op.k, &factor, op.out, out_type, op.n, kComputeF32, kDefault);
    if (status != 0) std::printf("cublasGemmEx: %d\n", status);
  }

 private:
  using Gemm = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int, int, const void*,
                       void*, int, int, int, int);
  void* library_ = nullptr;
  void* handle_ = nullptr;
  int (*set_stream_)(void*, cudaStream_t) = nullptr;
  int (*set_workspace_)(void*, void*, size_t) = nullptr;
  Gemm gemm_ = nullptr;
  lab::Device<uint8_t> workspace_;
};

// ---- times

// A graph of some calls, and the times of its replays.
class Recording {
 public:
  Recording(int calls, const std::function<void(cudaStream_t, int)>& enqueue) : calls_(calls) {
    LAB_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    enqueue(stream_, 0);
    LAB_CUDA(cudaStreamSynchronize(stream_));
    cudaGraph_t graph;
    LAB_CUDA(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < calls; ++i) enqueue(stream_, i);
    LAB_CUDA(cudaStreamEndCapture(stream_, &graph));
    LAB_CUDA(cudaGraphInstantiate(&exec_, graph, 0));
    LAB_CUDA(cudaGraphDestroy(graph));
    LAB_CUDA(cudaEventCreate(&begin_));
    LAB_CUDA(cudaEventCreate(&end_));
  }
  Recording(const Recording&) = delete;
  ~Recording() {
    cudaEventDestroy(begin_), cudaEventDestroy(end_), cudaGraphExecDestroy(exec_), cudaStreamDestroy(stream_);
  }
  void replay() {
    LAB_CUDA(cudaEventRecord(begin_, stream_));
    LAB_CUDA(cudaGraphLaunch(exec_, stream_));
    LAB_CUDA(cudaEventRecord(end_, stream_));
    LAB_CUDA(cudaEventSynchronize(end_));
    float ms;
    LAB_CUDA(cudaEventElapsedTime(&ms, begin_, end_));
    times_us_.push_back(double(ms) * 1e3 / calls_);
  }
  double median_us() {
    std::sort(times_us_.begin(), times_us_.end());
    return times_us_[times_us_.size() / 2];
  }

 private:
  const int calls_;
  cudaStream_t stream_;
  cudaGraphExec_t exec_;
  cudaEvent_t begin_, end_;
  std::vector<double> times_us_;
};

struct Bench {
  Blas& blas;
  lab::Device<uint16_t> x, weights, out, silu_out;
  static constexpr size_t kWeights = size_t(700) << 20;
  static constexpr size_t kOut = size_t(8192) * 28672;

  explicit Bench(Blas& blas) : blas(blas), x(size_t(8192) * 14336), weights(kWeights), out(kOut), silu_out(kOut / 2) {
    fill(x, 1, 1.0f, PW_BF16);
    fill(weights, 2, 1.0f / 64, PW_BF16);
    fill(out, 3, 1.0f, PW_BF16);
    LAB_CUDA(cudaDeviceSynchronize());
  }

  // The i-th of several weights, so that none is in the cache.
  PwProduct of(int rows, int n, int k, PwProductEnd end, PwElement out_element, int i) const {
    const size_t len = size_t(n) * k, copies = std::max<size_t>(1, std::min<size_t>(kWeights / len, 8));
    const int columns = end == PW_PRODUCT_GATED ? n / 2 : n;
    return {x.get(), weights.get() + len * (i % copies), out.get(), columns, rows, n, k, PW_BF16, out_element, end,
            PW_WEIGHT_SETTLED};
  }

  void time(int rows, int n, int k, PwProductEnd end, PwElement out_element, const std::vector<Plan>& plans) {
    const double work = 2.0 * rows * n * k, bytes = 2.0 * n * k;
    const int calls = std::min(16, std::max(4, int(400e9 / work)));
    const int replays = work > 1e11 ? 7 : 11;
    auto line = [&](const std::string& name, double us) {
      if (rows <= 256) {
        std::printf("%6d x %6d x %6d %-6s %-30s %9.2f us %7.3f TB/s\n", rows, n, k, name_of(end), name.c_str(), us, bytes / us * 1e-6);
      } else {
        std::printf("%6d x %6d x %6d %-6s %-30s %9.2f us %7.1f TFLOP/s\n", rows, n, k, name_of(end), name.c_str(), us, work / us * 1e-6);
      }
    };
    std::vector<std::string> names;
    std::vector<std::unique_ptr<Recording>> recordings;
    const auto record = [&](const std::string& name, const std::function<void(cudaStream_t, int)>& enqueue) {
      names.push_back(name);
      recordings.push_back(std::make_unique<Recording>(calls, enqueue));
    };
    const auto as_stream = [](cudaStream_t stream) { return reinterpret_cast<PwStream>(stream); };
    if (blas.is_there()) {
      record(end == PW_PRODUCT_GATED ? "cuBLAS + silu" : "cuBLAS", [&](cudaStream_t stream, int i) {
        PwProduct op = of(rows, n, k, end, out_element, i);
        blas.multiply(op, stream);
        if (end != PW_PRODUCT_GATED) return;
        const PwSiluMul silu = {out.get(), silu_out.get(), rows, n / 2, PW_BF16};
        LAB_OK(pw_silu_mul(&silu, as_stream(stream)));
      });
    }
    record("entry " + name_of(plan_of(of(rows, n, k, end, out_element, 0), 132)), [&](cudaStream_t stream, int i) {
      const PwProduct op = of(rows, n, k, end, out_element, i);
      LAB_OK(pw_product(&op, as_stream(stream)));
    });
    for (const Plan& plan : plans) {
      if (!takes(plan, end)) continue;
      record(name_of(plan), [&](cudaStream_t stream, int i) {
        LAB_OK(launch_warpgroups(of(rows, n, k, end, out_element, i), plan, as_stream(stream)));
      });
    }
    // In turns: a card that is warm, or at its limit of power, is slower for all of them.
    for (int round = 0; round < replays; ++round) {
      for (auto& recording : recordings) recording->replay();
    }
    for (size_t i = 0; i < names.size(); ++i) line(names[i], recordings[i]->median_us());
  }
};

void time_all() {
  std::printf("copy %.2f TB/s\n", lab::copy_rate_tbps());
  Blas blas;
  std::printf("cuBLAS %s\n", blas.is_there() ? "found" : "not found");
  Bench bench(blas);
  const Share none = Share::kNothing, share_x = Share::kX, share_w = Share::kWeight;
  const Plan pair_0 = {2, 256, 256, share_w, 2, 8, 0}, pair_2 = {2, 256, 256, share_w, 2, 8, 2};
  const Plan pair_x = {2, 256, 256, share_x, 2, 16, 2}, alone_0 = {2, 256, 256, none, 1, 8, 0};
  const Plan alone_2 = {2, 256, 256, none, 1, 8, 2}, alone_16 = {2, 256, 256, none, 1, 16, 2};
  bench.time(8192, 8192, 8192, PW_PRODUCT_STORE, PW_BF16,
             {pair_0, pair_2, pair_x, alone_0, alone_16, {2, 256, 256, share_w, 2, 16, 2}, {2, 256, 256, share_w, 2, 4, 3}});
  for (int rows : {1, 16, 32, 64}) {
    bench.time(rows, 4096, 4096, PW_PRODUCT_ADD, PW_BF16, {{1, 32, 24, none, 1, 1}});
    bench.time(rows, 6144, 4096, PW_PRODUCT_STORE, PW_BF16, {});
    bench.time(rows, 28672, 4096, PW_PRODUCT_GATED, PW_BF16, {{1, 128, 80, none, 1, 1}, {1, 64, 64, none, 1, 1}});
    bench.time(rows, 4096, 14336, PW_PRODUCT_ADD, PW_BF16, {});
  }
  bench.time(1, 128256, 4096, PW_PRODUCT_STORE, PW_F32, {{1, 128, 128, none, 1, 1}, {1, 64, 64, none, 1, 1}});
  bench.time(64, 128256, 4096, PW_PRODUCT_STORE, PW_F32, {{1, 128, 128, none, 1, 1}, {1, 64, 64, none, 1, 1}});
  for (int rows : {96, 128, 192, 256, 384, 512, 768}) {
    const std::vector<Plan> narrow = {{2, 64, 32, none, 1, 4},    {2, 64, 48, none, 1, 4},    {2, 64, 64, none, 1, 4},
                                      {2, 96, 96, none, 1, 4, 2}, {2, 128, 128, none, 1, 4, 2}, {2, 192, 192, none, 1, 4, 2}};
    const std::vector<Plan> wide = {{2, 128, 112, none, 1, 4},      {2, 192, 192, none, 1, 4, 2},     {2, 224, 224, none, 1, 4, 2},
                                    {2, 224, 224, share_w, 2, 4, 2}, {2, 256, 256, share_w, 2, 4, 2}, alone_2};
    bench.time(rows, 4096, 4096, PW_PRODUCT_ADD, PW_BF16, narrow);
    bench.time(rows, 6144, 4096, PW_PRODUCT_STORE, PW_BF16, narrow);
    bench.time(rows, 28672, 4096, PW_PRODUCT_GATED, PW_BF16, wide);
    bench.time(rows, 4096, 14336, PW_PRODUCT_ADD, PW_BF16, narrow);
  }
  for (int rows : {1024, 2048, 4096}) {
    const std::vector<Plan> plans = {pair_0, pair_2, pair_x, alone_0, alone_16, {2, 192, 192, share_w, 2, 8, 2}};
    bench.time(rows, 4096, 4096, PW_PRODUCT_ADD, PW_BF16, plans);
    bench.time(rows, 6144, 4096, PW_PRODUCT_STORE, PW_BF16, plans);
    bench.time(rows, 28672, 4096, PW_PRODUCT_GATED, PW_BF16, plans);
    bench.time(rows, 4096, 14336, PW_PRODUCT_ADD, PW_BF16, plans);
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
  std::printf("%d failures\n", lab::failures());
  if (!is_check && lab::failures() == 0) time_all();
  return lab::failures() > 0;
}
