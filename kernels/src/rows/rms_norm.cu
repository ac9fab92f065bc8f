// RMS norm, alone and after a residual sum. A block a row; the row stays in registers between its two passes.
#include "common/dependent.cuh"
#include "common/geometry.cuh"
#include "common/reduce.cuh"
#include "common/vector.cuh"
#include "pagewise/rows.h"
#include "rows/flat.cuh"

namespace pw {
namespace {

constexpr int kMaxThreads = 512;

// Packs a thread whose weights fit into its registers beside the row.
template <int N>
constexpr int kMaxPacks = N == 8 ? 4 : 8;

// residual + x as stored, which is what is normed.
template <class T, int N>
__device__ Pack<T, N> add_residual(const Pack<T, N>& x, const Pack<T, N>& residual, T* to) {
  float a[N], b[N];
  x.unpack(a);
  residual.unpack(b);
#pragma unroll
  for (int i = 0; i < N; ++i) a[i] += b[i];
  const Pack<T, N> sum = Pack<T, N>::of(a);
  sum.store(to);
  return sum;
}

template <class T, int N>
__device__ float sum_of_squares(const Pack<T, N>& pack) {
  float values[N], sum = 0.0f;
  pack.unpack(values);
#pragma unroll
  for (int i = 0; i < N; ++i) sum += values[i] * values[i];
  return sum;
}

template <class T, int N>
__device__ void store_normed(const Pack<T, N>& pack, float scale, const Pack<float, N>& weight, T* to) {
  float values[N], weights[N];
  pack.unpack(values);
  weight.unpack(weights);
#pragma unroll
  for (int i = 0; i < N; ++i) values[i] = values[i] * scale * weights[i];
  Pack<T, N>::of(values).store(to);
}

// PACKS a thread at most; neighbouring threads take neighbouring packs.
template <class T, int N, int PACKS>
__global__ void __launch_bounds__(kMaxThreads) rms_norm(const PwRmsNorm op) {
  __shared__ float partial[kWarp];
  const int64_t row = int64_t(blockIdx.x) * op.cols;
  const T* x = static_cast<const T*>(op.x) + row;
  T* residual = static_cast<T*>(op.residual) + row;

  // The weight does not depend on the kernel before.
  Pack<float, N> weight[PACKS];
#pragma unroll
  for (int p = 0; p < PACKS; ++p) {
    const int at = (p * blockDim.x + threadIdx.x) * N;
    if (at < op.cols) weight[p] = Pack<float, N>::load(op.weight + at);
  }
  wait_for_previous();
  let_next_start();

  Pack<T, N> pack[PACKS], residual_pack[PACKS];
#pragma unroll
  for (int p = 0; p < PACKS; ++p) {
    const int at = (p * blockDim.x + threadIdx.x) * N;
    if (at >= op.cols) continue;
    pack[p] = Pack<T, N>::load(x + at);
    if (op.residual != nullptr) residual_pack[p] = Pack<T, N>::load(residual + at);
  }
  float sum = 0.0f;
#pragma unroll
  for (int p = 0; p < PACKS; ++p) {
    const int at = (p * blockDim.x + threadIdx.x) * N;
    if (at >= op.cols) continue;
    if (op.residual != nullptr) pack[p] = add_residual(pack[p], residual_pack[p], residual + at);
    sum += sum_of_squares(pack[p]);
  }
  const float scale = rsqrtf(block_sum(sum, partial) / float(op.cols) + op.eps);
  T* out = static_cast<T*>(op.out) + row;
#pragma unroll
  for (int p = 0; p < PACKS; ++p) {
    const int at = (p * blockDim.x + threadIdx.x) * N;
    if (at < op.cols) store_normed(pack[p], scale, weight[p], out + at);
  }
}

// For rows that do not fit into registers: reads them twice. A thread reads again only what it read or wrote before.
template <class T, int N>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_wide(const PwRmsNorm op) {
  __shared__ float partial[kWarp];
  wait_for_previous();
  let_next_start();
  const int64_t row = int64_t(blockIdx.x) * op.cols;
  const T* x = static_cast<const T*>(op.x) + row;
  T* residual = static_cast<T*>(op.residual) + row;
  float sum = 0.0f;
  for (int at = threadIdx.x * N; at < op.cols; at += blockDim.x * N) {
    Pack<T, N> pack = Pack<T, N>::load(x + at);
    if (op.residual != nullptr) pack = add_residual(pack, Pack<T, N>::load(residual + at), residual + at);
    sum += sum_of_squares(pack);
  }
  const float scale = rsqrtf(block_sum(sum, partial) / float(op.cols) + op.eps);
  const T* source = op.residual != nullptr ? residual : x;
  T* out = static_cast<T*>(op.out) + row;
  for (int at = threadIdx.x * N; at < op.cols; at += blockDim.x * N) {
    store_normed(Pack<T, N>::load(source + at), scale, Pack<float, N>::load(op.weight + at), out + at);
  }
}

template <class T, int N, int PACKS = 1>
PwStatus launch(Type<Pack<T, N>> type, const PwRmsNorm& op, PwStream stream) {
  const int packs = op.cols / N;
  if constexpr (PACKS > kMaxPacks<N>) {
    return launch_dependent(rms_norm_wide<T, N>, dim3(op.rows), dim3(kMaxThreads), stream, op);
  } else {
    if (packs > PACKS * kMaxThreads) return launch<T, N, 2 * PACKS>(type, op, stream);
    const int threads = int(div_up(div_up(packs, PACKS), kWarp)) * kWarp;
    return launch_dependent(rms_norm<T, N, PACKS>, dim3(op.rows), dim3(threads), stream, op);
  }
}

}  // namespace
}  // namespace pw

extern "C" PwStatus pw_rms_norm(const PwRmsNorm* op, PwStream stream) {
  using namespace pw;
  if (op->rows < 0 || op->cols <= 0) return PW_INVALID;
  if (!are_aligned(op->x, op->residual, op->weight, op->out)) return PW_INVALID;
  if (op->rows == 0) return PW_OK;
  return with_pack(op->element, op->cols, [&](auto pack) { return launch(pack, *op, stream); });
}
