// Products for Hopper: one warp asks the copy engine for x and weights, one or two warpgroups multiply them.
//
// Rows of x are the rows of the tensor cores' products and rows of the weight their columns; both are fetched through a ring
// of stages, 64 elements of k at a time, and a tile's sums stay in registers from its first element of k to its last. Nothing
// is split along k, so the sum's order is the same in tiles of all shapes.
//
// A stage holds the rows that a tile has, not those that its products read: what lies behind them, the next operand or the next
// stage, makes rows and columns of sums that are never stored. So a step of one row is fetched as 8 rows and multiplied as 64.
//
// Blocks of a cluster may share x or the weight: each fetches a part and the copy engine writes it to all of them. A block
// whose peers write into its stages tells all of them when a stage is free.
//
// Weights that are settled are asked for before the previous kernel has ended.
#pragma once

#include "common/cluster.cuh"
#include "common/dependent.cuh"
#include "common/tensor_map.cuh"
#include "common/warpgroup.cuh"
#include "product/ends.cuh"
#include "product/plan.cuh"

namespace pw::dense {

// How one operand's part of a stage is fetched: boxes of `box_rows` rows, `stride` bytes from one to the next in the stage.
struct Fetch {
  int box_rows;
  int num_boxes;
  int stride;
};

struct Params {
  PwProduct op;
  Fetch x;
  Fetch weight;
  Share share;
  int cluster;
  int group;
  // Columns of `out` that a tile has
  int tile_columns;
  // Clusters down and across
  int num_down;
  int num_across;
  int num_steps;
  int num_stages;
  // Where the weight begins in a stage, a stage's size, and the bytes that come to it
  int weight_offset;
  int stage_bytes;
  int fetched_bytes;
};

constexpr int kMaxStages = 64;
// The barriers stand before the stages.
constexpr int kRingOffset = 1024;

struct Barriers {
  uint64_t full[kMaxStages];
  uint64_t empty[kMaxStages];
};
static_assert(sizeof(Barriers) <= kRingOffset, "stages begin at a multiple of 1024 bytes");

constexpr int threads_of(int warpgroups) { return warpgroups * kWarpgroup + 32; }

#ifdef PW_HAS_WARPGROUP_PRODUCTS

// A stage of a ring whose length is known at run time.
struct StagePlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance(int num_stages) {
    if (++stage == num_stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// The first row of x and the first column of `out` of a block's tile.
struct Corner {
  int row;
  int column;
};

// The cluster's i-th tile: groups of rows one after another; within one, down before across.
template <int kRows>
__device__ __forceinline__ Corner corner_of(const Params& params, int index, int rank) {
  const int per_group = params.group * params.num_across;
  const int first_down = index / per_group * params.group;
  const int in_group = index % per_group;
  const int height = min(params.group, params.num_down - first_down);
  int down = first_down + in_group % height, across = in_group / height;
  if (params.share == Share::kWeight) down = down * params.cluster + rank;
  if (params.share == Share::kX) across = across * params.cluster + rank;
  return {down * kRows, across * params.tile_columns};
}

// What a block fetches, step by step, over all its tiles.
template <int kRows>
class Steps {
 public:
  __device__ Steps(const Params& params, int rank) : params_(params), rank_(rank), tile_(blockIdx.x / params.cluster) {
    if (!is_end()) corner = corner_of<kRows>(params_, tile_, rank_);
  }
  __device__ bool is_end() const { return tile_ >= params_.num_down * params_.num_across; }
  __device__ void advance() {
    if (++step < params_.num_steps) return;
    step = 0;
    tile_ += gridDim.x / params_.cluster;
    if (!is_end()) corner = corner_of<kRows>(params_, tile_, rank_);
  }

  Corner corner;
  int step = 0;

 private:
  const Params& params_;
  const int rank_;
  int tile_;
};

// The thread that asks for copies.
template <int kRows>
class Producer {
 public:
  __device__ Producer(const CUtensorMap& x, const CUtensorMap& weight, const Params& params, uint8_t* shared)
      : x_(x),
        weight_(weight),
        params_(params),
        barriers_(*reinterpret_cast<Barriers*>(shared)),
        ring_(shared_address(shared) + kRingOffset),
        rank_(params.cluster > 1 ? cluster_rank() : 0) {}

  __device__ void run() {
    prefetch_tensor_map(&x_);
    prefetch_tensor_map(&weight_);
    if (params_.op.weight_state == PW_WEIGHT_FRESH) wait_for_previous();
    // The ring is empty: weights for all of it, and x once it is there.
    Steps<kRows> steps(params_, rank_), behind = steps;
    int num_ahead = 0;
    for (; num_ahead < params_.num_stages && !steps.is_end(); ++num_ahead, steps.advance()) {
      mbarrier_arrive_expecting(&barriers_.full[num_ahead], params_.fetched_bytes);
      fetch_weight(num_ahead, steps);
    }
    wait_for_previous();
    let_next_start();
    for (int stage = 0; stage < num_ahead; ++stage, behind.advance()) fetch_x(stage, behind);

    StagePlace place;
    for (; !steps.is_end(); steps.advance()) {
      mbarrier_wait(&barriers_.empty[place.stage], place.parity);
      mbarrier_arrive_expecting(&barriers_.full[place.stage], params_.fetched_bytes);
      fetch_weight(place.stage, steps);
      fetch_x(place.stage, steps);
      place.advance(params_.num_stages);
    }
  }

 private:
  __device__ __forceinline__ void fetch_x(int stage, const Steps<kRows>& steps) {
    const uint32_t to = ring_ + stage * params_.stage_bytes;
    for (int box = 0; box < params_.x.num_boxes; ++box) {
      const int row = steps.corner.row + box * params_.x.box_rows;
      fetch(&x_, Share::kX, box, to + box * params_.x.stride, stage, steps.step, row, 0);
    }
  }

  __device__ __forceinline__ void fetch_weight(int stage, const Steps<kRows>& steps) {
    const uint32_t to = ring_ + stage * params_.stage_bytes + params_.weight_offset;
    const bool is_gated = params_.op.end == PW_PRODUCT_GATED;
    for (int box = 0; box < params_.weight.num_boxes; ++box) {
      const int row = steps.corner.column + (is_gated ? 0 : box * params_.weight.box_rows);
      fetch(&weight_, Share::kWeight, box, to + box * params_.weight.stride, stage, steps.step, row, is_gated ? box : 0);
    }
  }

  __device__ __forceinline__ void fetch(const CUtensorMap* map, Share share, int box, uint32_t to, int stage, int step, int row,
                                        int part) {
    uint64_t* const full = &barriers_.full[stage];
    if (params_.share != share) {
      copy_box(to, map, full, step * kStepElements, row, part);
    } else if (box == rank_) {
      copy_box_to_blocks(to, map, full, step * kStepElements, row, part, (1u << params_.cluster) - 1);
    }
  }

  const CUtensorMap& x_;
  const CUtensorMap& weight_;
  const Params& params_;
  Barriers& barriers_;
  const uint32_t ring_;
  const int rank_;
};

// A warpgroup that multiplies.
template <class T, int kWarpgroups, int kWidth>
class Consumer {
 public:
  static constexpr int kRows = kWarpgroups * kWarpgroupRows;

  __device__ Consumer(const Params& params, uint8_t* shared)
      : params_(params),
        barriers_(*reinterpret_cast<Barriers*>(shared)),
        ring_(shared_address(shared) + kRingOffset),
        lane_(threadIdx.x % 32),
        warp_(threadIdx.x / 32),
        rank_(params.cluster > 1 ? cluster_rank() : 0) {}

  __device__ void run() {
    const int num_tiles = params_.num_down * params_.num_across;
    for (int tile = blockIdx.x / params_.cluster; tile < num_tiles; tile += gridDim.x / params_.cluster) {
      float sums[kWidth / 2];
      multiply(sums);
      const Corner corner = corner_of<kRows>(params_, tile, rank_);
      const int columns = params_.op.end == PW_PRODUCT_GATED ? params_.op.n / 2 : params_.op.n;
      const Place place = {params_.op.out,       params_.op.out_stride,
                           corner.row + warp_ * 16, params_.op.rows,
                           corner.column,        min(corner.column + params_.tile_columns, columns)};
      end_product<T>(params_.op, sums, place, lane_);
    }
  }

 private:
  // The sums of a tile's 64 rows, over all of k.
  __device__ __forceinline__ void multiply(float (&sums)[kWidth / 2]) {
    pin(sums);
    int previous = place_.stage;
    for (int step = 0; step < params_.num_steps; ++step) {
      const int stage = place_.stage;
      mbarrier_wait(&barriers_.full[stage], place_.parity);
      const uint32_t x = ring_ + stage * params_.stage_bytes + warp_ / 4 * (kWarpgroupRows * 128);
      const auto a = SwizzledMatrix::along_k(x);
      const auto b = SwizzledMatrix::along_k(ring_ + stage * params_.stage_bytes + params_.weight_offset);
      products_begin();
#pragma unroll
      for (int i = 0; i < kStepElements / 16; ++i) {
        product_of_shared<T>(sums, a.plus_bytes(i * 32), b.plus_bytes(i * 32), step > 0 || i > 0);
      }
      products_commit();
      if (step > 0) {
        products_wait<1>();
        release(previous);
      }
      previous = stage;
      place_.advance(params_.num_stages);
    }
    products_wait<0>();
    pin(sums);
    release(previous);
  }

  // Tells every block that writes into the stage.
  __device__ __forceinline__ void release(int stage) {
    if (params_.cluster == 1) {
      if (lane_ == 0) mbarrier_arrive(&barriers_.empty[stage]);
    } else if (lane_ < params_.cluster) {
      mbarrier_arrive_in_block(&barriers_.empty[stage], lane_);
    }
  }

  const Params& params_;
  Barriers& barriers_;
  const uint32_t ring_;
  const int lane_;
  const int warp_;
  const int rank_;
  StagePlace place_;
};

template <int kWarpgroups>
__device__ void init_barriers(const Params& params, uint8_t* shared) {
  Barriers& barriers = *reinterpret_cast<Barriers*>(shared);
  for (int i = 0; i < params.num_stages; ++i) {
    mbarrier_init(&barriers.full[i], 1);
    mbarrier_init(&barriers.empty[i], kWarpgroups * (kWarpgroup / 32) * params.cluster);
  }
  mbarrier_init_done();
}

// All blocks of the cluster.
__device__ __forceinline__ void meet(const Params& params) {
  if (params.cluster > 1) {
    cluster_arrive();
    cluster_wait();
  } else {
    __syncthreads();
  }
}

#endif

template <class T, int kWarpgroups, int kWidth>
__global__ void __launch_bounds__(threads_of(kWarpgroups), 1)
    warpgroups_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weight,
                      const __grid_constant__ Params params) {
#ifdef PW_HAS_WARPGROUP_PRODUCTS
  extern __shared__ __align__(1024) uint8_t shared[];
  if (threadIdx.x == 0) init_barriers<kWarpgroups>(params, shared);
  // Nobody writes into a block before its barriers stand.
  meet(params);
  if (threadIdx.x >= kWarpgroups * kWarpgroup) {
    if (threadIdx.x % 32 == 0) Producer<kWarpgroups * kWarpgroupRows>(x, weight, params, shared).run();
    __syncwarp();
    wait_for_previous();
  } else {
    wait_for_previous();
    Consumer<T, kWarpgroups, kWidth>(params, shared).run();
  }
  // Nobody leaves while others write into its stages or arrive at its barriers.
  if (params.cluster > 1) meet(params);
#endif
}

}  // namespace pw::dense
