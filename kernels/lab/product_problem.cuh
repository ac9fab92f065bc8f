// Problems of the lab of products: random operands, and what their product is in float64.
#pragma once

#include <string>

#include "lab.cuh"
#include "product/plan.cuh"

namespace lab {

using pw::dense::Plan;

inline int element_bytes(PwElement element) { return element == PW_F32 ? 4 : 2; }

inline const char* name_of(PwProductEnd end) {
  return end == PW_PRODUCT_ADD ? "add" : end == PW_PRODUCT_GATED ? "gated" : "store";
}

inline std::string name_of(const Plan& plan) {
  char text[80];
  std::snprintf(text, sizeof text, "%dx64x%d/%d%s", plan.warpgroups, plan.cols, plan.width, plan.cluster == 2 ? " pair" : "");
  return text;
}

// ---- random numbers and float64 on the device: products of these sizes take minutes on the host

__device__ inline uint64_t mix(uint64_t z) {
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

inline void fill(const Device<uint16_t>& out, uint64_t seed, float scale, PwElement element) {
  fill_kernel<<<1024, 256>>>(out.get(), out.len(), seed, scale, element);
  LAB_CUDA(cudaGetLastError());
}

__device__ inline double value_of(const void* data, size_t i, PwElement element) {
  if (element == PW_F32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return element == PW_BF16 ? __uint_as_float(uint32_t(bits) << 16) : __half2float(__ushort_as_half(bits));
}

__device__ inline double dot(const PwProduct& op, int row, int column) {
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
  Device<uint16_t> x, weight, before;
  Device<uint8_t> out;
  int columns;

  Problem(int rows, int n, int k, PwElement element, PwElement out_element, PwProductEnd end, int margin = 8)
      : x(size_t(rows) * k), weight(size_t(n) * k), columns(end == PW_PRODUCT_GATED ? n / 2 : n) {
    op = {x.get(), weight.get(), nullptr, columns + margin, rows, n, k, element, out_element, end, PW_WEIGHT_SETTLED};
    out = Device<uint8_t>(size_t(rows + 1) * op.out_stride * element_bytes(out_element));
    before = Device<uint16_t>(out.len() / 2);
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
    Device<double> errors(2);
    errors.zero();
    const int every = std::max(1, op.rows / 40);
    compare_kernel<<<dim3((columns + 127) / 128, (op.rows + every - 1) / every), 128>>>(op, before.get(), every, errors.get());
    LAB_CUDA(cudaGetLastError());
    const std::vector<double> sums = errors.read();
    return std::sqrt(sums[0] / std::max(sums[1], 1e-300));
  }

  // Whether nothing was written beyond the rows and columns.
  bool margins_hold() {
    Device<uint8_t> expected(out.len());
    if (op.end == PW_PRODUCT_ADD) {
      LAB_CUDA(cudaMemcpy(expected.get(), before.get(), out.len(), cudaMemcpyDeviceToDevice));
    } else {
      expected.poison();
    }
    const int bytes = element_bytes(op.out_element), stride = int(op.out_stride) * bytes, used = columns * bytes;
    Device<int> num(1);
    num.zero();
    differ_kernel<<<dim3((stride - used + 127) / 128, op.rows), 128>>>(out.get() + used, expected.get() + used, stride, stride,
                                                                       stride - used, num.get());
    const size_t end = size_t(op.rows) * stride;
    differ_kernel<<<dim3((stride + 127) / 128, 1), 128>>>(out.get() + end, expected.get() + end, stride, stride, stride,
                                                          num.get());
    return num.read()[0] == 0;
  }
};

}  // namespace lab
