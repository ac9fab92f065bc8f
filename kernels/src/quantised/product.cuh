// Products of few rows of activations with quantised weights: each weight is read once, whatever the number of rows.
//
// A CUDA block takes tiles of 16 weight rows, one after another. Its warps share the columns in a fixed way: warp w of W
// takes stages w, w + W, ... of the row, and their sums are added in the order of w. So an output depends on its own row
// of activations and its own row of weights, and on nothing else. Weights come through a ring of each warp, activations
// through the L1 cache, which the warps of a processor share.
#pragma once

#include <algorithm>

#include "common/dependent.cuh"
#include "common/mma_sync.cuh"
#include "common/warp_ring.cuh"
#include "quantised/operands.cuh"

namespace pw {
namespace quantised {

// Rows of activations of one product instruction.
constexpr int kRowsAtOnce = 8;
// Most units whose activations of 8 rows a lane holds at a time.
constexpr int kMaxUnitsHeld = 8;
// Floats from one column of a warp's partial sums to the next: writes and reads touch different banks.
constexpr int kPartialStride = kTileRows + 4;

// How a product is cut; results depend on `warps` and STAGE_BLOCKS.
template <class F, int STAGES, int STAGE_BLOCKS, int GROUP_UNITS = 4>
struct Cut {
  static constexpr int kStages = STAGES;
  static constexpr int kStageBlocks = STAGE_BLOCKS;
  // Units whose activations are loaded together.
  static constexpr int kGroupUnits = GROUP_UNITS;
  static constexpr int kStageUnits = STAGE_BLOCKS * kBlockUnits<F>;
  static constexpr int kStageBytes = STAGE_BLOCKS * kBlockBytes<F>;
};

// Shared memory of a CUDA block: [warps][stages] weights, [warps] prepared scales, [2][warps] partial sums, barriers.
template <class F, class C, int ROW_TILES>
struct Shared {
  static constexpr int kScaleBytes = kHasPreparedScales<F> ? kPreparedScales * int(sizeof(float4)) : 0;
  static constexpr int kPartialBytes = ROW_TILES * kRowsAtOnce * kPartialStride * int(sizeof(float));
  static constexpr int kWarpBytes = C::kStages * (C::kStageBytes + 8) + kScaleBytes + 2 * kPartialBytes;

  uint8_t* base;
  int warps;
  __device__ uint8_t* stages(int warp) const { return base + warp * C::kStages * C::kStageBytes; }
  __device__ float4* scales(int warp) const {
    return reinterpret_cast<float4*>(stages(warps) + warp * kScaleBytes);
  }
  __device__ float* partial(int parity, int warp) const {
    return reinterpret_cast<float*>(stages(warps) + warps * kScaleBytes + (parity * warps + warp) * kPartialBytes);
  }
  __device__ uint64_t* barriers(int warp) const {
    return reinterpret_cast<uint64_t*>(stages(warps) + warps * (kScaleBytes + 2 * kPartialBytes)) + warp * C::kStages;
  }
};

// Walks over the stages of one warp: those of a tile, then those of the block's next tile.
template <class F, class C>
struct Cursor {
  int tile;
  int step;

  __device__ void next(int num_steps, int first, int by, int tiles_by) {
    step += by;
    if (step >= num_steps) step = first, tile += tiles_by;
  }
};

// Activations as right operands: one register of each pair of a lane's columns, for each 8 rows.
template <class F, class T, int ROW_TILES>
struct Activations {
  uint32_t pairs[ROW_TILES][4];

  __device__ void load(const T* const (&rows)[ROW_TILES], int col) {
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i) {
      if constexpr (F::kRun == kLaneCols) {
        const uint4 all = *reinterpret_cast<const uint4*>(rows[i] + col);
        pairs[i][0] = all.x, pairs[i][1] = all.y, pairs[i][2] = all.z, pairs[i][3] = all.w;
      } else {
        const uint2 first = *reinterpret_cast<const uint2*>(rows[i] + col);
        const uint2 second = *reinterpret_cast<const uint2*>(rows[i] + col + kUnitCols / 2);
        pairs[i][0] = first.x, pairs[i][1] = first.y, pairs[i][2] = second.x, pairs[i][3] = second.y;
      }
    }
  }
};

__device__ inline void add_scaled(float (&sums)[4], const RowPair& scale, const float (&add)[4]) {
  sums[0] = __fmaf_rn(scale.low, add[0], sums[0]);
  sums[1] = __fmaf_rn(scale.low, add[1], sums[1]);
  sums[2] = __fmaf_rn(scale.high, add[2], sums[2]);
  sums[3] = __fmaf_rn(scale.high, add[3], sums[3]);
}

// sums += 16 rows of weights x 32 columns . 8 rows of activations
template <class F, class T>
__device__ void add_unit(float (&sums)[4], const UnitOperand& weights, const UnitScales& scales, const uint32_t (&x)[4]) {
  float first[4];
  mma_sync<Sum::kNew, T>(first, weights.halves[0], x[0], x[1]);
  if constexpr (F::kRun == kLaneCols) {
    mma_sync<Sum::kAdd, T>(first, weights.halves[1], x[2], x[3]);
    add_scaled(sums, scales.first, first);
    if constexpr (kHasMinimum<F>) {
      const uint32_t ones[4] = {Pairs<T>::kOne, Pairs<T>::kOne, Pairs<T>::kOne, Pairs<T>::kOne};
      float of_x[4];
      mma_sync<Sum::kNew, T>(of_x, ones, x[0], x[1]);
      mma_sync<Sum::kAdd, T>(of_x, ones, x[2], x[3]);
      add_scaled(sums, scales.second, of_x);
    }
  } else {
    float second[4];
    mma_sync<Sum::kNew, T>(second, weights.halves[1], x[2], x[3]);
    add_scaled(sums, scales.first, first);
    add_scaled(sums, scales.second, second);
  }
}

__device__ inline void store_as(void* out, PwElement element, int64_t at, float value) {
  if (element == PW_F32) {
    static_cast<float*>(out)[at] = value;
  } else if (element == PW_BF16) {
    static_cast<__nv_bfloat16*>(out)[at] = __float2bfloat16_rn(value);
  } else {
    static_cast<__half*>(out)[at] = __float2half_rn(value);
  }
}

template <class F, class T, int ROW_TILES, class C, int MAX_WARPS, int MIN_BLOCKS>
__global__ void __launch_bounds__(MAX_WARPS * 32, MIN_BLOCKS) product(const PwQuantisedProduct op) {
  extern __shared__ __align__(128) uint8_t shared_bytes[];
  const int warps = blockDim.x / 32, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int g = lane / 4, t = lane % 4;
  constexpr int kGroupUnits = C::kGroupUnits < kMaxUnitsHeld / ROW_TILES ? C::kGroupUnits : kMaxUnitsHeld / ROW_TILES;
  const Shared<F, C, ROW_TILES> shared{shared_bytes, warps};

  const int blocks = op.weight.k / F::kCols;
  const int num_steps = (blocks + C::kStageBlocks - 1) / C::kStageBlocks;
  const int tiles = num_tiles(op.weight.n);
  const uint8_t* weight = static_cast<const uint8_t*>(op.weight.weight);
  WarpRing<C::kStages> ring(shared.stages(warp), C::kStageBytes, shared.barriers(warp));
  Cursor<F, C> ahead{warp < num_steps ? int(blockIdx.x) : tiles, warp};
  const auto fetch = [&] {
    const int first = ahead.step * C::kStageBlocks;
    const int bytes = ahead.tile < tiles ? min(C::kStageBlocks, blocks - first) * kBlockBytes<F> : 0;
    ring.fetch(weight + (int64_t(ahead.tile) * blocks + first) * kBlockBytes<F>, bytes);
    if (ahead.tile < tiles) ahead.next(num_steps, warp, warps, gridDim.x);
  };
#pragma unroll
  for (int i = 0; i < C::kStages; ++i) fetch();
  wait_for_previous();
  let_next_start();

  // Lanes without a row of their own read the first one's; nobody looks at their sums.
  const T* rows[ROW_TILES];
#pragma unroll
  for (int i = 0; i < ROW_TILES; ++i) {
    const int row = i * kRowsAtOnce + g;
    rows[i] = static_cast<const T*>(op.x) + int64_t(row < op.rows ? row : 0) * op.weight.k + t * F::kRun;
  }

  int parity = 0;
  for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, parity ^= 1) {
    float sums[ROW_TILES][4] = {};
    for (int step = warp; step < num_steps; step += warps) {
      const int first_unit = step * C::kStageUnits;
      const int units = min(C::kStageUnits, blocks * kBlockUnits<F> - first_unit);
      const auto add = [&](const uint8_t* stage, int unit, const Activations<F, T, ROW_TILES>& x) {
        const uint8_t* block = stage + unit / kBlockUnits<F> * kBlockBytes<F>;
        const UnitOperand weights = unit_operand<T>(F{}, block, unit % kBlockUnits<F>, lane);
        const UnitScales scales = unit_scales(F{}, block, shared.scales(warp), unit, g);
#pragma unroll
        for (int i = 0; i < ROW_TILES; ++i) add_unit<F, T>(sums[i], weights, scales, x.pairs[i]);
      };
      if (units == C::kStageUnits) {
        Activations<F, T, ROW_TILES> x[kGroupUnits];
#pragma unroll
        for (int u = 0; u < kGroupUnits; ++u) x[u].load(rows, (first_unit + u) * kUnitCols);
        const uint8_t* stage = ring.wait();
        if constexpr (kHasPreparedScales<F>) {
          prepare_scales(F{}, stage, lane, shared.scales(warp));
          __syncwarp();
        }
#pragma unroll
        for (int group = 0; group < C::kStageUnits; group += kGroupUnits) {
          if (group > 0) {
#pragma unroll
            for (int u = 0; u < kGroupUnits; ++u) x[u].load(rows, (first_unit + group + u) * kUnitCols);
          }
#pragma unroll
          for (int u = 0; u < kGroupUnits; ++u) add(stage, group + u, x[u]);
        }
      } else if constexpr (kBlockUnits<F> == 1) {
        // The end of a row.
        const uint8_t* stage = ring.wait();
#pragma unroll 1
        for (int unit = 0; unit < units; ++unit) {
          Activations<F, T, ROW_TILES> x;
          x.load(rows, (first_unit + unit) * kUnitCols);
          add(stage, unit, x);
        }
      }
      fetch();
    }

    float* partial = shared.partial(parity, warp);
#pragma unroll
    for (int i = 0; i < ROW_TILES; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        partial[(i * kRowsAtOnce + 2 * t + j % 2) * kPartialStride + g + j / 2 * 8] = sums[i][j];
      }
    }
    // One barrier a tile is enough: a warp writes the same half again only after the next tile's barrier.
    __syncthreads();
    for (int i = threadIdx.x; i < op.rows * kTileRows; i += blockDim.x) {
      const int row = i / kTileRows, n = i % kTileRows;
      float sum = 0;
#pragma unroll 4
      for (int w = 0; w < warps; ++w) sum += shared.partial(parity, w)[row * kPartialStride + n];
      const int col = tile * kTileRows + n;
      if (col < op.weight.n) store_as(op.out, op.out_element, row * op.out_stride + op.out_offset + col, sum);
    }
  }
}

// How a launch is cut: results depend on `warps` alone.
struct ProductPlan {
  int warps;
  int blocks_per_processor;
};

// As many warps as share the stages of a row evenly.
template <class F, class C>
ProductPlan usual_plan(const PwQuantised& weight, int max_warps, int blocks_per_processor) {
  const int blocks = weight.k / F::kCols;
  const int steps = (blocks + C::kStageBlocks - 1) / C::kStageBlocks;
  const int rounds = (steps + max_warps - 1) / max_warps;
  return {(steps + rounds - 1) / rounds, blocks_per_processor};
}

template <class F, class T, int ROW_TILES, class C, int MAX_WARPS, int MIN_BLOCKS>
PwStatus launch_product(const PwQuantisedProduct& op, const ProductPlan& plan, PwStream stream) {
  const auto kernel = product<F, T, ROW_TILES, C, MAX_WARPS, MIN_BLOCKS>;
  int device, processors;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  const int shared_bytes = plan.warps * Shared<F, C, ROW_TILES>::kWarpBytes;
  if (error == cudaSuccess) error = allow_shared(reinterpret_cast<const void*>(kernel), shared_bytes);
  if (error != cudaSuccess) return static_cast<PwStatus>(error);

  const int grid = std::min(num_tiles(op.weight.n), processors * plan.blocks_per_processor);
  return launch_dependent(kernel, Grid{dim3(grid), dim3(plan.warps * 32), 1, shared_bytes}, stream, op);
}

}  // namespace quantised
}  // namespace pw
