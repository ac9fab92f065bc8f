// Products for any card: a block of four warps makes 64 rows of 64 columns by the warp's matrix instruction.
//
// For correctness on cards before Hopper, not for speed: operands come through shared memory, one step of k at a time.
#include "common/geometry.cuh"
#include "common/launch.cuh"
#include "product/ends.cuh"
#include "product/plan.cuh"

namespace pw::dense {
namespace {

constexpr int kWarps = 4;
constexpr int kTileRows = 16 * kWarps;
// Rows of the weight in a tile; half of them gates and half ups if gated.
constexpr int kTileCols = 64;
constexpr int kStep = 32;
// Rows are set apart so that the lanes of a matrix load do not meet in one bank.
constexpr int kPitch = kStep + 8;

// Brings 64 rows' next elements of k to shared memory, zeros for what is not there. `row_of` gives a row's number or -1.
template <class T, class F>
__device__ void fetch(T (&to)[kTileCols][kPitch], const T* from, int k, int first_k, F&& row_of) {
  constexpr int kPieces = kStep / 8;
  for (int i = threadIdx.x; i < kTileCols * kPieces; i += kWarps * 32) {
    const int row = row_of(i / kPieces), at = first_k + i % kPieces * 8;
    const bool is_there = row >= 0 && at < k;
    const T* source = is_there ? from + int64_t(row) * k + at : from;
    copy_16_bytes(uint32_t(__cvta_generic_to_shared(&to[i / kPieces][i % kPieces * 8])), source, is_there ? 16 : 0);
  }
}

template <class T>
__global__ void __launch_bounds__(kWarps * 32) warps_kernel(const PwProduct op, int tile_columns) {
  __shared__ __align__(16) T x[kTileRows][kPitch];
  __shared__ __align__(16) T weight[kTileCols][kPitch];
  const bool is_gated = op.end == PW_PRODUCT_GATED;
  const int columns = is_gated ? op.n / 2 : op.n;
  const int first_row = blockIdx.y * kTileRows, first_column = blockIdx.x * tile_columns;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float sums[kTileCols / 2] = {};
  for (int first_k = 0; first_k < op.k; first_k += kStep) {
    __syncthreads();
    fetch(x, static_cast<const T*>(op.x), op.k, first_k, [&](int i) {
      return first_row + i < op.rows ? first_row + i : -1;
    });
    fetch(weight, static_cast<const T*>(op.weight), op.k, first_k, [&](int i) {
      const int column = first_column + i % tile_columns;
      return column < columns ? column + i / tile_columns * columns : -1;
    });
    copies_commit();
    copies_wait<0>();
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kStep; step += 16) {
      uint32_t a[4];
      load_matrices<Transpose::kNo>(
          a, uint32_t(__cvta_generic_to_shared(&x[warp * 16 + lane % 16][step + lane / 16 * 8])));
#pragma unroll
      for (int piece = 0; piece < kTileCols / 8; ++piece) {
        const T* row = &weight[piece * 8 + lane / 4][step + lane % 4 * 2];
        float (&d)[4] = *reinterpret_cast<float (*)[4]>(sums + piece * 4);
        product_16x8<T>(d, a, *reinterpret_cast<const uint32_t*>(row), *reinterpret_cast<const uint32_t*>(row + 8));
      }
    }
  }
  const Place place = {op.out,  op.out_stride, first_row + warp * 16, op.rows,
                       first_column, min(first_column + tile_columns, columns)};
  Old<kTileCols / 8> old;
  if (op.end == PW_PRODUCT_ADD) old.template load<T>(place, lane);
  end_product<T>(op, sums, old, place, lane);
}

}  // namespace

PwStatus launch_warps(const PwProduct& op, PwStream stream) {
  const bool is_gated = op.end == PW_PRODUCT_GATED;
  const int tile_columns = is_gated ? kTileCols / 2 : kTileCols;
  const dim3 grid(unsigned(div_up(is_gated ? op.n / 2 : op.n, tile_columns)), unsigned(div_up(op.rows, kTileRows)));
  if (grid.y > 65535) return PW_INVALID;
  return with_half_element(op.element, [&](auto type) -> PwStatus {
    warps_kernel<typename decltype(type)::type><<<grid, kWarps * 32, 0, cuda_stream(stream)>>>(op, tile_columns);
    return launched();
  });
}

}  // namespace pw::dense
