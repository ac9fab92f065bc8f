// Products for Hopper: two warps ask the copy engine for weights and for x, one or two warpgroups multiply them.
//
// Rows of x are the rows of the tensor cores' products and rows of the weight their columns; both are fetched through a ring
// of stages, and a tile's sums stay in registers from its first element of k to its last. Nothing is split along k, so the
// sum's order is the same in tiles of all shapes.
//
// A stage holds the rows that a tile has, not those that its products read: what lies behind them, the next operand or the next
// stage, makes rows and columns of sums that are never stored. So a step of one row is fetched as 8 rows and multiplied as 64.
//
// Blocks of a cluster may share x or the weight: each fetches a part and the copy engine writes it to all of them. A block
// whose peers write into its stages tells all of them when a stage is free.
//
// Weights that are settled are asked for before the previous kernel has ended.
//
// A narrow tile's step is over in two hundred cycles, and a warp by itself takes five for an instruction: what is done in every
// step is as little as can be.
#pragma once

#include "common/cluster.cuh"
#include "common/dependent.cuh"
#include "common/tensor_map.cuh"
#include "common/warpgroup.cuh"
#include "product/ends.cuh"
#include "product/plan.cuh"

namespace pw::dense {

// How one operand is fetched: a box of so many rows a chunk, and where the next box begins, of the weight's other half or of
// what another block of the cluster fetches.
struct Fetch {
  int box_rows;
  int stride;
  // What comes to a stage, from all blocks
  int bytes;
  // From the stage's begin, and from one chunk to the next
  int offset;
  int chunk_stride;
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
  int stage_bytes;
  // Steps by which the second warpgroup follows the first; less than stages, and if not 0, a tile has more steps than stages
  int lag;
};

constexpr int kMaxStages = 64;
// The barriers stand before the stages.
constexpr int kRingOffset = 1024;

// Warpgroups and columns of their products.
template <int kWarpgroupsOf, int kWidthOf>
struct Shape {
  static constexpr int kWarpgroups = kWarpgroupsOf;
  static constexpr int kWidth = kWidthOf;
  static constexpr int kRows = kWarpgroups * kWarpgroupRows;
  static constexpr int kThreads = (kWarpgroups + 1) * kWarpgroup;
  // Chunks of k in a stage: few rows are worth a barrier only if they come with twice as much of k.
  static constexpr int kChunks = kWidth <= 64 ? 2 : 1;
};

#ifdef PW_HAS_WARPGROUP_PRODUCTS

// A place in a ring whose length is known at run time, as addresses: the stage, and its barriers.
class StagePlace {
 public:
  __device__ StagePlace(const Params& params, uint32_t shared)
      : stage_bytes_(params.stage_bytes), begin_(shared + kRingOffset), barriers_(shared), stage(begin_), full(shared) {
    end_ = begin_ + params.num_stages * stage_bytes_;
  }
  __device__ __forceinline__ uint32_t empty() const { return full + kMaxStages * 8; }
  __device__ __forceinline__ void advance() {
    stage += stage_bytes_;
    full += 8;
    if (stage == end_) {
      stage = begin_;
      full = barriers_;
      parity ^= 1;
    }
  }

 private:
  const int stage_bytes_;
  const uint32_t begin_;
  const uint32_t barriers_;
  uint32_t end_;

 public:
  uint32_t stage;
  uint32_t full;
  uint32_t parity = 0;
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

enum class Operand { kX, kWeight };

// The thread that asks for copies of an operand.
template <class S, Operand kOperand>
class Producer {
 public:
  __device__ Producer(const CUtensorMap& map, const Params& params, uint32_t shared)
      : map_(map),
        params_(params),
        fetch_(kOperand == Operand::kX ? params.x : params.weight),
        rank_(params.cluster > 1 ? cluster_rank() : 0),
        is_shared_(params.share == (kOperand == Operand::kX ? Share::kX : Share::kWeight)),
        is_gated_(kOperand == Operand::kWeight && params.op.end == PW_PRODUCT_GATED),
        place_(params, shared) {}

  __device__ void run() {
    prefetch_tensor_map(&map_);
    if (kOperand == Operand::kX || params_.op.weight_state == PW_WEIGHT_FRESH) wait_for_previous();
    const int num_tiles = params_.num_down * params_.num_across;
    for (int tile = blockIdx.x / params_.cluster; tile < num_tiles; tile += gridDim.x / params_.cluster) {
      fetch_tile(corner_of<S::kRows>(params_, tile, rank_));
    }
  }

 private:
  // Of one tile, all of k. The parts of a shared operand follow each other, in the tensor or as halves.
  __device__ __forceinline__ void fetch_tile(const Corner& corner) {
    const int part = is_shared_ ? rank_ : 0;
    const int first_row = (kOperand == Operand::kX ? corner.row : corner.column) + (is_gated_ ? 0 : part * fetch_.box_rows);
    const uint32_t offset = fetch_.offset + part * fetch_.stride;
    for (int step = 0, k = 0; step < params_.num_steps; ++step) {
      // The ring is empty in its first round.
      mbarrier_wait(place_.empty(), place_.parity ^ 1);
      mbarrier_arrive_expecting(place_.full, fetch_.bytes);
#pragma unroll
      for (int chunk = 0; chunk < S::kChunks; ++chunk, k += kChunkElements) {
        const uint32_t to = place_.stage + offset + chunk * fetch_.chunk_stride;
        if (is_shared_) {
          copy_box_to_blocks(to, &map_, place_.full, k, first_row, is_gated_ ? part : 0, (1u << params_.cluster) - 1);
        } else {
          copy_box(to, &map_, place_.full, k, first_row, 0);
          if (is_gated_) copy_box(to + fetch_.stride, &map_, place_.full, k, first_row, 1);
        }
      }
      place_.advance();
    }
  }

  const CUtensorMap& map_;
  const Params& params_;
  const Fetch& fetch_;
  const int rank_;
  const bool is_shared_;
  const bool is_gated_;
  StagePlace place_;
};

// Lets the second warpgroup follow the first by some steps: while one stores its sums, the other has the tensor cores.
class Lag {
 public:
  __device__ Lag(int steps, int warpgroup) : steps_(steps), warpgroup_(warpgroup) {}
  __device__ __forceinline__ void begin_tile() const {
    if (steps_ > 0 && warpgroup_ == 1) asm volatile("bar.sync 1, 256;" ::: "memory");
  }
  __device__ __forceinline__ void end_step(int step) const {
    if (step + 1 == steps_ && warpgroup_ == 0) asm volatile("bar.arrive 1, 256;" ::: "memory");
  }

 private:
  const int steps_;
  const int warpgroup_;
};

// A warpgroup that multiplies.
template <class T, class S>
class Consumer {
 public:
  __device__ Consumer(const Params& params, uint32_t shared)
      : params_(params),
        lane_(threadIdx.x % 32),
        // The same in all lanes, as the compiler should know.
        warp_(__shfl_sync(0xffffffffu, int(threadIdx.x / 32), 0)),
        place_(params, shared) {}

  __device__ void run() {
    const int rank = params_.cluster > 1 ? cluster_rank() : 0;
    const int num_tiles = params_.num_down * params_.num_across;
    for (int tile = blockIdx.x / params_.cluster; tile < num_tiles; tile += gridDim.x / params_.cluster) {
      float sums[S::kWidth / 2];
      multiply(sums);
      const Corner corner = corner_of<S::kRows>(params_, tile, rank);
      const int columns = params_.op.end == PW_PRODUCT_GATED ? params_.op.n / 2 : params_.op.n;
      const Place place = {params_.op.out,       params_.op.out_stride,
                           corner.row + warp_ * 16, params_.op.rows,
                           corner.column,        min(corner.column + params_.tile_columns, columns)};
      end_product<T>(params_.op, sums, place, lane_);
    }
  }

 private:
  // The sums of a tile's 64 rows, over all of k.
  __device__ __forceinline__ void multiply(float (&sums)[S::kWidth / 2]) {
    const Lag lag(S::kWarpgroups == 2 ? params_.lag : 0, warp_ / 4);
    const uint32_t x_offset = warp_ / 4 * (kWarpgroupRows * kChunkBytes);
    uint32_t previous = 0;
    pin(sums);
    lag.begin_tile();
    for (int step = 0; step < params_.num_steps; ++step) {
      mbarrier_wait(place_.full, place_.parity);
      const uint32_t a = (place_.stage + x_offset) / 16, b = (place_.stage + params_.weight.offset) / 16;
      products_begin();
#pragma unroll
      for (int chunk = 0; chunk < S::kChunks; ++chunk) {
#pragma unroll
        for (int i = 0; i < kChunkElements / 16; ++i) {
          product_of_shared<T>(sums, SwizzledMatrix::along_k_at(a + chunk * (params_.x.chunk_stride / 16) + i * 2),
                               SwizzledMatrix::along_k_at(b + chunk * (params_.weight.chunk_stride / 16) + i * 2),
                               step > 0 || chunk > 0 || i > 0);
        }
      }
      products_commit();
      lag.end_step(step);
      products_wait<1>();
      if (step > 0) release(previous);
      previous = place_.empty();
      place_.advance();
    }
    products_wait<0>();
    pin(sums);
    release(previous);
  }

  // Tells every block that writes into the stage.
  __device__ __forceinline__ void release(uint32_t empty) {
    if (params_.cluster == 1) {
      if (lane_ == 0) mbarrier_arrive(empty);
    } else if (lane_ < params_.cluster) {
      mbarrier_arrive_in_block(empty, lane_);
    }
  }

  const Params& params_;
  const int lane_;
  const int warp_;
  StagePlace place_;
};

template <class S>
__device__ void init_barriers(const Params& params, uint8_t* shared) {
  uint64_t* const full = reinterpret_cast<uint64_t*>(shared);
  for (int i = 0; i < params.num_stages; ++i) {
    // One for each operand
    mbarrier_init(full + i, 2);
    mbarrier_init(full + kMaxStages + i, S::kWarpgroups * (kWarpgroup / 32) * params.cluster);
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

// The last warpgroup: a warp for each operand, of which one thread works.
template <class S>
__device__ __forceinline__ void produce(const CUtensorMap& x, const CUtensorMap& weight, const Params& params,
                                        uint32_t shared) {
  const int thread = threadIdx.x - S::kWarpgroups * kWarpgroup;
  if (thread == 0) Producer<S, Operand::kWeight>(weight, params, shared).run();
  if (thread == 32) Producer<S, Operand::kX>(x, params, shared).run();
  __syncwarp();
  wait_for_previous();
}

#endif

template <class T, class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    warpgroups_kernel(const __grid_constant__ CUtensorMap x, const __grid_constant__ CUtensorMap weight,
                      const __grid_constant__ Params params) {
#ifdef PW_HAS_WARPGROUP_PRODUCTS
  extern __shared__ __align__(1024) uint8_t shared[];
  if (threadIdx.x == 0) init_barriers<S>(params, shared);
  // Nobody writes into a block before its barriers stand.
  meet(params);
  uint32_t address;
  // Left to itself, the compiler computes this again in every step.
  asm volatile("mov.b32 %0, %1;" : "=r"(address) : "r"(shared_address(shared)));
  if (threadIdx.x >= S::kWarpgroups * kWarpgroup) {
    if constexpr (S::kWarpgroups == 2) give_registers<56>();
    produce<S>(x, weight, params, address);
  } else {
    if constexpr (S::kWarpgroups == 2) take_registers<224>();
    wait_for_previous();
    let_next_start();
    Consumer<T, S>(params, address).run();
  }
  // Nobody leaves while others write into its stages or arrive at its barriers.
  if (params.cluster > 1) meet(params);
#endif
}

}  // namespace pw::dense
