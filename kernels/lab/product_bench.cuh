// Times of the lab of products: candidates in turns, beside cuBLAS if the machine has it.
#pragma once

#include <dlfcn.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "product_problem.cuh"

namespace lab {

using namespace pw::dense;

// Whether there is such a product: gates and ups are whole rows of eight columns.
inline bool takes(const Plan& plan, PwProductEnd end) { return end != PW_PRODUCT_GATED || plan.cols % 16 == 0; }

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
    if (library_ != nullptr) workspace_ = Device<uint8_t>(32 << 20);
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
  Device<uint8_t> workspace_;
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

// Whether the card rests before each replay, as between the chunks of a server that is not full, or is at its limit of power.
enum class Pace { kBusy, kRested };

struct Bench {
  Pace pace = Pace::kBusy;
  Blas& blas;
  Device<uint16_t> x, weights, out, silu_out;
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
    const int replays = pace == Pace::kRested ? 3 : work > 1e11 ? 7 : 11;
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
      for (auto& recording : recordings) {
        if (pace == Pace::kRested) std::this_thread::sleep_for(std::chrono::milliseconds(100));
        recording->replay();
      }
    }
    for (size_t i = 0; i < names.size(); ++i) line(names[i], recordings[i]->median_us());
  }
};

}  // namespace lab
