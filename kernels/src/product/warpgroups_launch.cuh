// Launches warpgroups_kernel for whatever plan: the maps of x and weight, what a stage holds, the grid. Host code.
#pragma once

#include "common/geometry.cuh"
#include "common/launch.cuh"
#include "product/warpgroups.cuh"

namespace pw::dense {

// Shared memory of a block. It leaves room for blocks of the kernels before and after, which are small.
constexpr int kSharedBytes = 200 << 10;

inline int round_up(int value, int to) { return (value + to - 1) / to * to; }

// What a stage holds and how it is fetched.
template <class S>
void lay_out(Params& params, const Plan& plan) {
  const bool is_gated = params.op.end == PW_PRODUCT_GATED;
  const int num_boxes = plan.cluster == 2 || is_gated ? 2 : 1;
  const int box_rows = plan.cols / num_boxes;
  const int second_box = (is_gated ? S::kWidth / 2 : box_rows) * kChunkBytes;
  const int x_chunk = params.tile_rows * kChunkBytes;
  const int weight_chunk = (num_boxes - 1) * second_box + box_rows * kChunkBytes;
  params.x = {params.tile_rows, 0, S::kChunks * x_chunk, 0, x_chunk};
  params.weight = {box_rows, second_box, S::kChunks * plan.cols * kChunkBytes, S::kChunks * x_chunk, weight_chunk};
  params.stage_bytes = S::kChunks * (x_chunk + weight_chunk);
  // Products read whole operands; those of the last stage must not end beyond the block's memory.
  const int x_end = (S::kChunks - 1) * x_chunk + S::kRows * kChunkBytes;
  const int weight_end = params.weight.offset + (S::kChunks - 1) * weight_chunk + S::kWidth * kChunkBytes;
  const int last_stage = x_end > weight_end ? x_end : weight_end;
  params.num_stages = 1 + (kSharedBytes - kRingOffset - last_stage) / params.stage_bytes;
  if (params.num_stages > kMaxStages) params.num_stages = kMaxStages;
}

// Tiles are equally high, so that the last one is not mostly rows that are not there: the copy engine takes longer for them
// than for others.
template <class S>
Params params_of(const PwProduct& op, const Plan& plan) {
  Params params;
  params.op = op;
  params.cluster = plan.cluster;
  const bool is_gated = op.end == PW_PRODUCT_GATED;
  // The swizzle repeats every 8 rows.
  params.tile_rows = round_up(int(div_up(op.rows, div_up(op.rows, S::kRows))), 8);
  params.tile_columns = is_gated ? plan.cols / 2 : plan.cols;
  params.num_down = int(div_up(op.rows, params.tile_rows * plan.cluster));
  params.num_across = int(div_up(is_gated ? op.n / 2 : op.n, params.tile_columns));
  params.group = plan.group < params.num_down ? plan.group : params.num_down;
  params.num_steps = int(div_up(op.k, S::kChunks * kChunkElements));
  lay_out<S>(params, plan);
  return params;
}

inline PwStatus encode_operands(const PwProduct& op, const Params& params, CUtensorMap* x, CUtensorMap* weight) {
  const uint64_t k = uint64_t(op.k), rows = uint64_t(op.rows), n = uint64_t(op.n);
  BoxTensor tensor = {op.x, op.element, {k, rows, 1}, {k, k * rows}, {kChunkElements, uint32_t(params.x.box_rows), 1}};
  const PwStatus status = encode_tensor_map(tensor, x);
  if (status != PW_OK) return status;
  // Gated, the halves are two matrices, and a box ends where its half ends.
  const uint64_t parts = op.end == PW_PRODUCT_GATED ? 2 : 1;
  tensor = {op.weight, op.element, {k, n / parts, parts}, {k, k * (n / parts)},
            {kChunkElements, uint32_t(params.weight.box_rows), 1}};
  return encode_tensor_map(tensor, weight);
}

template <class T, class S>
PwStatus launch_warpgroups_kernel(const PwProduct& op, const Plan& plan, PwStream stream) {
  const auto kernel = warpgroups_kernel<T, S>;
  cudaFuncAttributes attributes;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaSuccess && attributes.ptxVersion < 90) return PW_UNSUPPORTED;
  if (error == cudaSuccess && attributes.maxDynamicSharedSizeBytes < kSharedBytes) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  }
  int device = 0, num_multiprocessors = 0;
  if (error == cudaSuccess) error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&num_multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) return error;

  const Params params = params_of<S>(op, plan);
  CUtensorMap x, weight;
  const PwStatus status = encode_operands(op, params, &x, &weight);
  if (status != PW_OK) return status;
  const int64_t num_tiles = int64_t(params.num_down) * params.num_across;
  const int num_places = num_multiprocessors / plan.cluster;
  const int num_clusters = num_tiles < num_places ? int(num_tiles) : num_places;
  Grid grid{dim3(unsigned(num_clusters * plan.cluster)), dim3(S::kThreads)};
  grid.cluster = plan.cluster;
  grid.shared_bytes = kSharedBytes;
  return launch_dependent(kernel, grid, stream, x, weight, params);
}

}  // namespace pw::dense
