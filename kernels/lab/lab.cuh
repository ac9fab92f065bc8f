// What the lab programs share: checked calls, device arrays, random numbers, the error measure, and timing by graph replays.
// Knows no kernel.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "pagewise.h"

#define LAB_CUDA(call)                                                                                     \
  do {                                                                                                     \
    cudaError_t lab_error = (call);                                                                        \
    if (lab_error != cudaSuccess) {                                                                        \
      std::fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(lab_error));   \
      std::exit(2);                                                                                        \
    }                                                                                                      \
  } while (0)

// For entry points of the library.
#define LAB_OK(call)                                                                          \
  do {                                                                                        \
    PwStatus lab_status = (call);                                                             \
    if (lab_status != PW_OK) {                                                                \
      std::fprintf(stderr, "%s:%d: %s: status %d\n", __FILE__, __LINE__, #call, lab_status);  \
      std::exit(2);                                                                           \
    }                                                                                         \
  } while (0)

namespace lab {

// splitmix64 (Steele, Lea and Flood, 2014).
struct Random {
  uint64_t state;
  explicit Random(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint64_t next() {
    uint64_t z = state += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  int below(int limit) { return int(next() % uint64_t(limit)); }
  // Bell-shaped, of variance 1.
  float normal() {
    float sum = 0;
    for (int i = 0; i < 4; ++i) sum += float(next() >> 40) / float(1 << 24) - 0.5f;
    return sum * 1.7320508f;
  }
};

// A device array that lives as long as its owner.
template <class T>
class Device {
 public:
  Device() = default;
  explicit Device(size_t len) : len_(len) { LAB_CUDA(cudaMalloc(&data_, std::max<size_t>(len, 1) * sizeof(T))); }
  explicit Device(const std::vector<T>& host) : Device(host.size()) { write(host); }
  Device(Device&& other) noexcept { std::swap(data_, other.data_), std::swap(len_, other.len_); }
  Device& operator=(Device&& other) noexcept {
    std::swap(data_, other.data_), std::swap(len_, other.len_);
    return *this;
  }
  ~Device() { cudaFree(data_); }
  T* get() const { return data_; }
  size_t len() const { return len_; }
  void write(const std::vector<T>& host) {
    LAB_CUDA(cudaMemcpy(data_, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> read() const {
    std::vector<T> host(len_);
    LAB_CUDA(cudaMemcpy(host.data(), data_, len_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }
  // All bytes 0xff: a NaN in every float format.
  void poison() { LAB_CUDA(cudaMemset(data_, 0xff, len_ * sizeof(T))); }
  void zero() { LAB_CUDA(cudaMemset(data_, 0, len_ * sizeof(T))); }

 private:
  T* data_ = nullptr;
  size_t len_ = 0;
};

// 2-byte elements as their bits, on the host.
inline uint16_t to_bits(float value, PwElement element) {
  uint16_t bits;
  if (element == PW_BF16) {
    __nv_bfloat16 v = __float2bfloat16(value);
    std::memcpy(&bits, &v, 2);
  } else {
    __half v = __float2half(value);
    std::memcpy(&bits, &v, 2);
  }
  return bits;
}
inline float from_bits(uint16_t bits, PwElement element) {
  return element == PW_BF16 ? __bfloat162float(__ushort_as_bfloat16(bits)) : __half2float(__ushort_as_half(bits));
}

// Random values of variance 1 as 2-byte elements.
inline std::vector<uint16_t> random_elements(size_t len, PwElement element, Random& random) {
  std::vector<uint16_t> out(len);
  for (auto& bits : out) bits = to_bits(random.normal(), element);
  return out;
}

// |got - expected| / |expected| over all elements; infinite where a value is not finite.
inline double relative_error(const std::vector<double>& got, const std::vector<double>& expected) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    difference += (got[i] - expected[i]) * (got[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return std::sqrt(difference / std::max(size, 1e-300));
}

// Prints a check and remembers whether any failed; main returns `failures() > 0`.
inline int& failures() {
  static int count = 0;
  return count;
}
inline void check(const char* what, double error, double allowed) {
  bool ok = error <= allowed;
  failures() += !ok;
  std::printf("%s %-60s error %.2e (allowed %.0e)\n", ok ? "ok  " : "FAIL", what, error, allowed);
}

// Median microseconds of one call of `enqueue(stream, i)`, from replays of one captured graph of `calls` calls. Rotate the
// inputs by `i` past the L2 cache (50 MB), or the cache is measured.
inline double median_us(int calls, const std::function<void(cudaStream_t, int)>& enqueue, int replays = 15) {
  cudaStream_t stream;
  LAB_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  for (int i = 0; i < calls; ++i) enqueue(stream, i);
  LAB_CUDA(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  LAB_CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  for (int i = 0; i < calls; ++i) enqueue(stream, i);
  LAB_CUDA(cudaStreamEndCapture(stream, &graph));
  LAB_CUDA(cudaGraphInstantiate(&exec, graph, 0));
  cudaEvent_t begin, end;
  LAB_CUDA(cudaEventCreate(&begin));
  LAB_CUDA(cudaEventCreate(&end));
  std::vector<double> times;
  for (int replay = 0; replay < replays + 2; ++replay) {
    LAB_CUDA(cudaEventRecord(begin, stream));
    LAB_CUDA(cudaGraphLaunch(exec, stream));
    LAB_CUDA(cudaEventRecord(end, stream));
    LAB_CUDA(cudaEventSynchronize(end));
    float ms;
    LAB_CUDA(cudaEventElapsedTime(&ms, begin, end));
    if (replay >= 2) times.push_back(double(ms) * 1e3 / calls);
  }
  LAB_CUDA(cudaEventDestroy(begin));
  LAB_CUDA(cudaEventDestroy(end));
  LAB_CUDA(cudaGraphExecDestroy(exec));
  LAB_CUDA(cudaGraphDestroy(graph));
  LAB_CUDA(cudaStreamDestroy(stream));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

// Terabytes a second of a large device-to-device copy, bytes read and written both counted: the limit beside every figure.
inline double copy_rate_tbps() {
  size_t bytes = size_t(1) << 30;
  Device<uint8_t> from(bytes), to(bytes);
  from.poison();
  double us = median_us(4, [&](cudaStream_t stream, int) {
    LAB_CUDA(cudaMemcpyAsync(to.get(), from.get(), bytes, cudaMemcpyDeviceToDevice, stream));
  });
  return 2.0 * double(bytes) / us * 1e-6;
}

}  // namespace lab
