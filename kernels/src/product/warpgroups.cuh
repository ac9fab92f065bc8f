// Products for Hopper: two warps ask the copy engine for weights and for x, one or two warpgroups multiply them.
//
// Rows of x are the rows of the tensor cores' products and rows of the weight their columns; both are fetched through a ring
// of stages, and a tile's sums stay in registers from its first element of k to its last. Nothing is split along k, so the
// sum's order is the same in tiles of all shapes.
//
// A stage holds the rows that a tile has, not those that its products read: what lies behind them, the next operand or the next
// stage, makes rows and columns of sums that are never stored. So a step of one row is fetched as 8 rows and multiplied as 64.
//
// The two blocks of a cluster share the weight: each fetches half and the copy engine writes it to both. A block whose peer
// writes into its stages tells it when a stage is free.
//
// Weights that are settled are asked for before the previous kernel has ended.
//
// A narrow tile's step is over in three hundred cycles, and a warp by itself takes about five for an instruction: what is done
// in every step is as little as can be.
#pragma once

#include "common/cluster.cuh"
#include "common/dependent.cuh"
#include "common/tensor_map.cuh"
#include "common/warpgroup.cuh"
#include "product/ends.cuh"
#include "product/plan.cuh"

namespace pw::dense {

// How one operand is fetched: for each chunk of k one box of rows or two.
struct Fetch {
  int box_rows;
  // From the first box to the second: the weight's other half, or what the other block of the cluster fetches
  int second_box;
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
  int cluster;
  int group;
  // Rows of x and columns of `out` of a tile
  int tile_rows;
  int tile_columns;
  // Clusters down and tiles across
  int num_down;
  int num_across;
  int num_steps;
  int num_stages;
  int stage_bytes;
};

constexpr int kMaxStages = 64;
// Before the stages stand their barriers: those of full ones, then those of empty ones.
constexpr int kRingOffset = 1024;
static_assert(2 * kMaxStages * sizeof(uint64_t) <= kRingOffset, "stages begin at a multiple of 1024 bytes");

// Warpgroups and columns of their products.
template <int kWarpgroupsOf, int kWidthOf>
struct Shape {
  static constexpr int kWarpgroups = kWarpgroupsOf;
  static constexpr int kWidth = kWidthOf;
  static constexpr int kRows = kWarpgroups * kWarpgroupRows;
  static constexpr int kThreads = (kWarpgroups + 1) * kWarpgroup;
  // Chunks of k in a stage: a narrow one is not worth barriers of its own.
  static constexpr int kChunks = kWidth <= 64 ? 2 : 1;
};

#ifdef PW_HAS_WARPGROUP_PRODUCTS

// A place in the ring as addresses: of a stage, and of the barriers that say it is full and it is empty. Rounds of the ring
// alternate in parity.
struct RingPlace {
  uint32_t stage;
  uint32_t full;
  uint32_t parity = 0;

  __device__ RingPlace(const Params& params, uint32_t shared)
      : stage(shared + kRingOffset),
        full(shared),
        stage_bytes_(params.stage_bytes),
        begin_(shared),
        end_(stage + params.num_stages * params.stage_bytes) {}

  __device__ __forceinline__ uint32_t empty() const { return full + kMaxStages * uint32_t(sizeof(uint64_t)); }

  __device__ __forceinline__ void advance() {
    stage += stage_bytes_;
    full += sizeof(uint64_t);
    if (stage != end_) return;
    stage = begin_ + kRingOffset;
    full = begin_;
    parity ^= 1;
  }

 private:
  const uint32_t stage_bytes_;
  const uint32_t begin_;
  const uint32_t end_;
};

// The first row of x and the first column of `out` of a block's tile.
struct Corner {
  int row;
  int column;
};

// The cluster's i-th tile: groups of rows one after another; within one, down before across.
__device__ __forceinline__ Corner corner_of(const Params& params, int index, int rank) {
  const int per_group = params.group * params.num_across;
  const int first_down = index / per_group * params.group;
  const int in_group = index % per_group;
  const int height = min(params.group, params.num_down - first_down);
  const int down = (first_down + in_group % height) * params.cluster + rank;
  return {down * params.tile_rows, in_group / height * params.tile_columns};
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
        rank_(cluster_rank()),
        place_(params, shared) {}

  __device__ void run() {
    prefetch_tensor_map(&map_);
    if (kOperand == Operand::kX || params_.op.weight_state == PW_WEIGHT_FRESH) wait_for_previous();
    const int num_tiles = params_.num_down * params_.num_across;
    for (int tile = blockIdx.x / params_.cluster; tile < num_tiles; tile += gridDim.x / params_.cluster) {
      fetch_tile(corner_of(params_, tile, rank_));
    }
  }

 private:
  // Of one tile, all of k.
  __device__ __forceinline__ void fetch_tile(const Corner& corner) {
    for (int step = 0, k = 0; step < params_.num_steps; ++step) {
      // The ring is empty in its first round.
      mbarrier_wait(place_.empty(), place_.parity ^ 1);
      mbarrier_arrive_expecting(place_.full, fetch_.bytes);
#pragma unroll
      for (int chunk = 0; chunk < S::kChunks; ++chunk, k += kChunkElements) {
        const uint32_t to = place_.stage + fetch_.offset + chunk * fetch_.chunk_stride;
        if constexpr (kOperand == Operand::kX) {
          copy_box(to, &map_, place_.full, k, corner.row, 0);
        } else {
          fetch_weight(to, k, corner.column);
        }
      }
      place_.advance();
    }
  }

  // Of a gated product the boxes are gates and ups, else rows that follow each other.
  __device__ __forceinline__ void fetch_weight(uint32_t to, int k, int row) {
    const bool is_gated = params_.op.end == PW_PRODUCT_GATED;
    if (params_.cluster == 1) {
      copy_box(to, &map_, place_.full, k, row, 0);
      if (is_gated) copy_box(to + fetch_.second_box, &map_, place_.full, k, row, 1);
    } else {
      const int first_row = is_gated ? row : row + rank_ * fetch_.box_rows;
      copy_box_to_blocks(to + rank_ * fetch_.second_box, &map_, place_.full, k, first_row, is_gated ? rank_ : 0, 0b11);
    }
  }

  const CUtensorMap& map_;
  const Params& params_;
  const Fetch& fetch_;
  const int rank_;
  RingPlace place_;
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
    const int rank = cluster_rank();
    const int num_tiles = params_.num_down * params_.num_across;
    for (int tile = blockIdx.x / params_.cluster; tile < num_tiles; tile += gridDim.x / params_.cluster) {
      const Place place = place_of(corner_of(params_, tile, rank));
      float sums[S::kWidth / 2];
      Old<S::kWidth / 8> old;
      multiply(sums, old, place);
      end_product<T>(params_.op, sums, old, place, lane_);
    }
  }

 private:
  // Of this warp's rows of a tile.
  __device__ __forceinline__ Place place_of(const Corner& corner) const {
    const PwProduct& op = params_.op;
    const int columns = op.end == PW_PRODUCT_GATED ? op.n / 2 : op.n;
    return {op.out,        op.out_stride, corner.row + warp_ * 16, min(corner.row + params_.tile_rows, op.rows),
            corner.column, min(corner.column + params_.tile_columns, columns)};
  }

  // The sums of a tile's 64 rows, over all of k. What they are added to is asked for while the last are made.
  __device__ __forceinline__ void multiply(float (&sums)[S::kWidth / 2], Old<S::kWidth / 8>& old, const Place& place) {
    const uint32_t x_offset = warp_ / 4 * (kWarpgroupRows * kChunkBytes);
    uint32_t previous = 0;
    pin(sums);
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
      products_wait<1>();
      if (step > 0) release(previous);
      previous = place_.empty();
      place_.advance();
    }
    if (params_.op.end == PW_PRODUCT_ADD) old.template load<T>(place, lane_);
    products_wait<0>();
    pin(sums);
    release(previous);
  }

  // Tells the blocks that write into the stage.
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
  RingPlace place_;
};

template <class S>
__device__ void init_barriers(const Params& params, uint8_t* shared) {
  uint64_t* const full = reinterpret_cast<uint64_t*>(shared);
  for (int i = 0; i < params.num_stages; ++i) {
    // Of the threads that ask for x and for the weight
    mbarrier_init(full + i, 2);
    mbarrier_init(full + kMaxStages + i, S::kWarpgroups * (kWarpgroup / 32) * params.cluster);
  }
  mbarrier_init_done();
}

// All threads of the cluster.
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
