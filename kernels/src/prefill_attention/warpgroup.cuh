// Prefill attention for Hopper: a warp that asks the copy engine for keys and values, and two warpgroups that multiply.
//
// Work is an item: a tile of new tokens with one key-value head. A block takes items until there are none. The producer warp
// sends each item and then its keys and values, tile by tile from the latest positions to the earliest, through a ring of
// slots in shared memory, in the order in which they are needed: K0 K1 V0 K2 V1 ... The stream does not stop between items:
// the keys of the next item's first tile come before the values of the last of this one, so a warpgroup multiplies
// queries and keys of one while it multiplies terms and values of the other.
//
// Each warpgroup holds 64 rows: queries, scores, rounded terms and sums all stay in registers. While one of them computes
// exponentials the other has the tensor cores: they take turns to issue products (Shah et al., "FlashAttention-3", 2024).
// Where 64 rows are all that a tile has, as in a decode step, a block has one such warpgroup and shares a multiprocessor.
//
// The copy engine's box has a fixed number of tokens. Boxes that lie wholly outside of the item's context arrive as zeros,
// but the box of its last positions ends with what the block's last owner left, perhaps a NaN. Its keys become scores that
// the mask replaces; its values would be multiplied by 0, which does not help, so zeros are written over them first.
#pragma once

#include "common/dependent.cuh"
#include "common/tensor_map.cuh"
#include "common/warpgroup.cuh"
#include "prefill_attention/softmax.cuh"

namespace pw::prefill {

// How the pool looks to the copy engine: rows of `head_dim`, in heads of `block_size` tokens, all of them one after another.
struct Pool {
  // Tokens of a box; a power of two
  int box_tokens;
  int log2_block_size;
  // Heads between two blocks, and from a block's start to this layer's keys and its values
  int block_heads;
  int keys_head;
  int values_head;
};

struct WarpgroupParams {
  PwPrefillAttention op;
  Pool pool;
  int group;
  float scale_log2;
};

// Rows of a warpgroup's product.
constexpr int kWarpgroupRows = 64;

// How a kernel is built. n: positions of a tile of keys; kSlots: tiles of keys or values that are on the way; kConsumers:
// warpgroups that multiply. Two of them have a multiprocessor for themselves.
template <int head_dim, int keys, int slots, int consumers>
struct WarpgroupShape {
  static constexpr int d = head_dim, n = keys, kSlots = slots, kConsumers = consumers;
  static constexpr int kConsumerWarps = 4 * kConsumers;
  static constexpr int kThreads = kWarpgroup * (1 + kConsumers);
  static constexpr int kBlocksPerProcessor = kConsumers == 2 ? 1 : 2;
  // Of a thread: 65,536 are there for the blocks of a multiprocessor.
  static constexpr int kProducerRegisters = 24;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 240 : 232;
};

// An item as the producer sends it. No tokens: there are no more.
struct alignas(16) Item {
  PwPrefillTile tile;
  int kv_head;
};

template <class Shape>
struct alignas(1024) WarpgroupShared {
  static constexpr int kSlots = Shape::kSlots;
  static constexpr int kSlotBytes = Shape::n * Shape::d * 2;
  static constexpr int kItems = 2;
  // Keys or values of n positions: halves of 64 elements of the head, each [n][64] in the 128-byte swizzle
  uint8_t slots[kSlots][kSlotBytes];
  uint64_t full[kSlots];
  uint64_t empty[kSlots];
  Item items[kItems];
  uint64_t item_full[kItems];
  uint64_t item_empty[kItems];
};

// Tiles of n keys of an item, and the boxes begin .. end of them that are read: no block that lies before the context, which
// with a sliding window may have another owner by now.
struct KeyTiles {
  int first;
  int num_tiles;
  int begin;
  int end;
};

template <int n>
__device__ __forceinline__ KeyTiles key_tiles_of(const WarpgroupParams& params, const PwPrefillTile& tile) {
  const Context context = context_of(tile, params.op.attention.sliding_window);
  const int first = first_key<n>(context);
  return {first, (context.end - first + n - 1) / n, context.begin & -params.pool.box_tokens, context.end};
}

#ifdef PW_HAS_WARPGROUP_PRODUCTS

// The warp that moves data: hands out items and fills slots.
template <class Shape>
class Producer {
 public:
  using Shared = WarpgroupShared<Shape>;

  __device__ Producer(const CUtensorMap& map, const WarpgroupParams& params, Shared& shared)
      : map_(map), params_(params), shared_(shared), lane_(threadIdx.x % 32) {}

  __device__ void run() {
    if (lane_ == 0) prefetch_tensor_map(&map_);
    const int num_items = __ldg(params_.op.num_tiles) * params_.op.attention.kv.num_kv_heads;
    Box waiting_values = {};
    bool values_wait = false;
    for (int index = blockIdx.x; index < num_items;) {
      const Item item = read_item(index);
      const KeyTiles tiles = key_tiles_of<n>(params_, item.tile);
      Box box = box_of(item, tiles, tiles.num_tiles - 1);
      // Tiles and tables are older than what the kernel before writes.
      wait_for_previous();
      int next = 0;
      if (lane_ == 0) next = gridDim.x + atomicAdd(&params_.op.counters[0], 1);
      send_item(item);
      for (int i = tiles.num_tiles - 1; i >= 0; --i) {
        const Box earlier = i > 0 ? box_of(item, tiles, i - 1) : Box{};
        fill_slot(box, params_.pool.keys_head + item.kv_head);
        if (values_wait) fill_slot(waiting_values, 0);
        waiting_values = box;
        waiting_values.head += params_.pool.values_head + item.kv_head;
        values_wait = true;
        box = earlier;
      }
      index = __shfl_sync(0xffffffffu, next, 0);
    }
    wait_for_previous();
    send_item(Item{});
    if (values_wait) fill_slot(waiting_values, 0);
    if (lane_ == 0) leave();
  }

 private:
  static constexpr int n = Shape::n, kSlots = Shape::kSlots;
  static constexpr int kHalves = Shape::d / 64;

  // What this lane asks for: tokens of a head, 64 elements of each.
  struct Box {
    int head;
    int token;
  };

  __device__ Item read_item(int index) const {
    const int num_kv_heads = params_.op.attention.kv.num_kv_heads;
    const int4 words = __ldg(reinterpret_cast<const int4*>(params_.op.tiles) + index / num_kv_heads);
    return {{words.x, words.y, words.z, words.w}, index % num_kv_heads};
  }

  __device__ void send_item(const Item& item) {
    mbarrier_wait(&shared_.item_empty[item_at_.stage], item_at_.parity);
    if (lane_ == 0) {
      shared_.items[item_at_.stage] = item;
      mbarrier_arrive(&shared_.item_full[item_at_.stage]);
    }
    item_at_.advance();
  }

  // The box of this lane in tile i, relative to head 0 of the block's layer part. The table is read here, long before the copy.
  __device__ Box box_of(const Item& item, const KeyTiles& tiles, int i) const {
    const Pool& pool = params_.pool;
    const int position = tiles.first + i * n + lane_ / kHalves * pool.box_tokens;
    const int block_size = 1 << pool.log2_block_size;
    const bool is_read = position >= tiles.begin && position < tiles.end && lane_ / kHalves * pool.box_tokens < n;
    // Tokens beyond a block are beyond the tensor.
    if (!is_read) return {0, block_size};
    const PwAttention& attention = params_.op.attention;
    const int32_t* table = attention.tables + int64_t(item.tile.slot) * attention.max_blocks_per_slot;
    return {__ldg(table + (position >> pool.log2_block_size)) * pool.block_heads, position & (block_size - 1)};
  }

  __device__ void fill_slot(const Box& box, int head) {
    const int slot = at_.stage;
    mbarrier_wait(&shared_.empty[slot], at_.parity);
    if (lane_ == 0) mbarrier_arrive_expecting(&shared_.full[slot], Shared::kSlotBytes);
    __syncwarp();
    const int first_token = lane_ / kHalves * params_.pool.box_tokens, half = lane_ % kHalves;
    if (first_token < n) {
      const uint32_t destination = shared_address(shared_.slots[slot]) + half * (n * 128) + first_token * 128;
      copy_box(destination, &map_, &shared_.full[slot], half * 64, box.token, box.head + head);
    }
    at_.advance();
  }

  // The last block to leave makes the counters zero again: all have taken their last item by then.
  __device__ void leave() const {
    __threadfence();
    if (atomicAdd(&params_.op.counters[1], 1) == int(gridDim.x) - 1) {
      params_.op.counters[0] = 0;
      params_.op.counters[1] = 0;
    }
  }

  const CUtensorMap& map_;
  const WarpgroupParams& params_;
  Shared& shared_;
  const int lane_;
  RingPosition<kSlots> at_{1};
  RingPosition<Shared::kItems> item_at_{1};
};

// Barriers of threads. 0 is that of the whole block.
constexpr int kTurnBarrier = 1;
constexpr int kClearBarrier = 3;

// A warpgroup's turn to issue products. A single one need not wait.
template <int kConsumers>
class Turns {
 public:
  __device__ explicit Turns(int warpgroup) : warpgroup_(warpgroup) {
    if (warpgroup_ == 1) give(0);
  }
  __device__ void take() const {
    if (kConsumers == 2) asm volatile("bar.sync %0, 256;" ::"r"(kTurnBarrier + warpgroup_) : "memory");
  }
  __device__ void pass() const { give(1 - warpgroup_); }
  // Every turn given is taken.
  __device__ void end() const {
    if (warpgroup_ == 0) take();
  }

 private:
  static __device__ void give(int to) {
    if (kConsumers == 2) asm volatile("bar.arrive %0, 256;" ::"r"(kTurnBarrier + to) : "memory");
  }
  const int warpgroup_;
};

// One warpgroup's view of an item: its rows, and the tile of keys whose scores come next.
template <int n>
struct Cursor {
  RowPlaces rows;
  int first_position;
  int last_position;
  // Of the next tile
  int first_column;
  int num_left;

  __device__ Cursor(const WarpgroupParams& params, const WarpRows& warp_rows, int lane)
      : rows(places_of(warp_rows, params.op.attention.num_heads, lane)),
        first_position(warp_rows.tile.first_position),
        last_position(first_position + warp_rows.tile.num_tokens - 1) {
    const KeyTiles tiles = key_tiles_of<n>(params, warp_rows.tile);
    first_column = tiles.first + (tiles.num_tiles - 1) * n;
    num_left = tiles.num_tiles;
  }

  // Masks the scores of the next tile and moves on.
  template <int kScores>
  __device__ void mask(float (&scores)[kScores], const WarpgroupParams& params, int lane) {
    const int window = params.op.attention.sliding_window;
    if (first_column + n - 1 > first_position) mask_later(scores, rows, first_column, lane);
    if (window > 0 && first_column <= last_position - window) mask_earlier(scores, rows, first_column, window, lane);
    first_column -= n;
    --num_left;
  }
};

template <class T, class Shape>
class Consumer {
  static constexpr int d = Shape::d, n = Shape::n, kSlots = Shape::kSlots;

 public:
  using Shared = WarpgroupShared<Shape>;

  __device__ Consumer(const WarpgroupParams& params, Shared& shared)
      : params_(params),
        shared_(shared),
        lane_(threadIdx.x % 32),
        warpgroup_(threadIdx.x / kWarpgroup - 1),
        first_row_(threadIdx.x / 32 * 16 - kWarpgroup / 32 * 16) {}

  __device__ void run() {
    const Turns<Shape::kConsumers> turns(warpgroup_);
    if (!load_next_queries()) return turns.end();
    Cursor<n> now = next_item();
    arrange_queries(queries_, lane_);
    Statistics statistics;
    bool has_next = true;
    uint32_t terms[n / 16][4];
    {
      float scores[n / 2], correction[2];
      const int slot = begin_slot();
      products_begin();
      multiply_keys(scores, slot);
      products_commit();
      products_wait<0>();
      pin(scores);
      release(slot);
      now.mask(scores, params_, lane_);
      if (now.num_left == 0) has_next = load_next_queries();
      online_softmax(scores, statistics, params_.scale_log2, correction);
      round_terms<T>(terms, scores);
      if (now.num_left == 0) arrange_queries(queries_, lane_);
    }
    float sums[d / 2];
    int accumulate = 0;
    while (has_next) {
      const bool item_ends = now.num_left == 0;
      float scores[n / 2], correction[2];
      turns.take();
      const int key_slot = begin_slot();
      products_begin();
      multiply_keys(scores, key_slot);
      products_commit();
      const uint32_t value_parity = at_.parity;
      const int value_slot = begin_slot();
      if (!accumulate) clear_values(now, value_slot);
      products_begin();
      multiply_values(sums, terms, value_slot, accumulate);
      products_commit();
      turns.pass();

      products_wait<1>();
      pin(scores);
      release(key_slot);
      const RowPlaces rows = now.rows;
      Statistics done = statistics;
      if (item_ends) {
        now = next_item();
        statistics = Statistics{};
      }
      now.mask(scores, params_, lane_);
      if (now.num_left == 0) has_next = load_next_queries();
      online_softmax(scores, statistics, params_.scale_log2, correction);
      stay_before_wait(scores, statistics, value_slot, value_parity);

      products_wait<0>();
      pin(sums);
      release(value_slot);
      round_terms<T>(terms, scores);
      if (item_ends) {
        row_sums(done);
        store_rows<T, d>(params_.op.attention, rows, sums, done.sum, lane_);
      } else {
        scale_rows(sums, correction);
      }
      if (now.num_left == 0) arrange_queries(queries_, lane_);
      accumulate = !item_ends;
    }
    const int slot = begin_slot();
    if (!accumulate) clear_values(now, slot);
    products_begin();
    multiply_values(sums, terms, slot, accumulate);
    products_commit();
    products_wait<0>();
    pin(sums);
    row_sums(statistics);
    store_rows<T, d>(params_.op.attention, now.rows, sums, statistics.sum, lane_);
    turns.end();
  }

 private:
  // The queries in registers have met their last keys: those of the next item may come. Whether there is one.
  __device__ bool load_next_queries() {
    mbarrier_wait(&shared_.item_full[item_at_.stage], item_at_.parity);
    if (shared_.items[item_at_.stage].tile.num_tokens == 0) return false;
    load_queries<T, d>(queries_, params_.op.attention, next_rows(), lane_);
    return true;
  }

  __device__ Cursor<n> next_item() {
    const Cursor<n> next(params_, next_rows(), lane_);
    __syncwarp();
    if (lane_ == 0) mbarrier_arrive(&shared_.item_empty[item_at_.stage]);
    item_at_.advance();
    return next;
  }

  __device__ WarpRows next_rows() const {
    const Item& item = shared_.items[item_at_.stage];
    return {item.tile, item.kv_head * params_.group, params_.group, first_row_};
  }

  // Waits for the next slot of the stream.
  __device__ int begin_slot() {
    const int slot = at_.stage;
    mbarrier_wait(&shared_.full[slot], at_.parity);
    at_.advance();
    return slot;
  }

  // Left alone, the compiler computes the exponentials after the wait for the sums, while the tensor cores have nothing to
  // do. A wait that is over already, on a parity that it must take to depend on all terms, keeps them where they stand.
  __device__ void stay_before_wait(float (&terms)[n / 2], const Statistics& statistics, int slot, uint32_t parity) {
    pin(terms);
    const bool never = fminf(statistics.sum[0], statistics.sum[1]) < 0.0f;
    mbarrier_wait(&shared_.full[slot], parity ^ uint32_t(never));
  }

  __device__ void release(int slot) {
    if (lane_ == 0) mbarrier_arrive(&shared_.empty[slot]);
  }

  // Before the first values of an item, those of its latest positions, are multiplied: zeros over those of its last box that
  // lie beyond its end. `now` has moved on to the next tile.
  //
  // The two warpgroups write the same zeros, each before its own products, so neither takes from the other what it reads. The
  // copy engine fills the slot again when every warp has released it, and each does so after all of its warpgroup has
  // written and its products have read.
  __device__ void clear_values(const Cursor<n>& now, int slot) {
    const int end = now.last_position + 1, first_row = end - (now.first_column + n);
    const int num_rows = -end & (params_.pool.box_tokens - 1);
    if (num_rows == 0) return;
    // Whole rows of 128 bytes, so that it does not matter how they are permuted.
    uint8_t* rows = shared_.slots[slot] + first_row * 128;
    for (int piece = threadIdx.x % kWarpgroup; piece < num_rows * 8; piece += kWarpgroup) {
#pragma unroll
      for (int half = 0; half < d / 64; ++half) reinterpret_cast<uint4*>(rows + half * (n * 128))[piece] = uint4{};
    }
    writes_before_products();
    asm volatile("bar.sync %0, %1;" ::"r"(kClearBarrier + warpgroup_), "n"(kWarpgroup) : "memory");
  }

  // Scores of 64 rows against n keys.
  __device__ void multiply_keys(float (&scores)[n / 2], int slot) {
    const SwizzledMatrix keys = SwizzledMatrix::along_k(shared_address(shared_.slots[slot]));
#pragma unroll
    for (int k = 0; k < d / 16; ++k) {
      product<T, Lies::kAlongK>(scores, queries_[k], keys.plus_bytes(k / 4 * (n * 128) + k % 4 * 32), k > 0);
    }
  }

  // Sums over n positions of terms times values.
  __device__ void multiply_values(float (&sums)[d / 2], const uint32_t (&terms)[n / 16][4], int slot, int accumulate) {
    const SwizzledMatrix values = SwizzledMatrix::along_columns(shared_address(shared_.slots[slot]), n * 128);
#pragma unroll
    for (int k = 0; k < n / 16; ++k) {
      product<T, Lies::kAlongColumns>(sums, terms[k], values.plus_bytes(k * 2048), k > 0 ? 1 : accumulate);
    }
  }

  const WarpgroupParams& params_;
  Shared& shared_;
  const int lane_;
  const int warpgroup_;
  // Of this warp
  const int first_row_;
  RingPosition<kSlots> at_{0};
  RingPosition<Shared::kItems> item_at_{0};
  uint32_t queries_[d / 16][4];
};

template <class Shape>
__device__ void init_barriers(WarpgroupShared<Shape>& shared) {
  for (int i = 0; i < Shape::kSlots; ++i) {
    mbarrier_init(&shared.full[i], 1);
    mbarrier_init(&shared.empty[i], Shape::kConsumerWarps);
  }
  for (int i = 0; i < WarpgroupShared<Shape>::kItems; ++i) {
    mbarrier_init(&shared.item_full[i], 1);
    mbarrier_init(&shared.item_empty[i], Shape::kConsumerWarps);
  }
  mbarrier_init_done();
}

#endif

template <class T, class Shape>
__global__ void __launch_bounds__(Shape::kThreads, Shape::kBlocksPerProcessor)
    warpgroup_kernel(const __grid_constant__ CUtensorMap map, const __grid_constant__ WarpgroupParams params) {
#ifdef PW_HAS_WARPGROUP_PRODUCTS
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<WarpgroupShared<Shape>*>(shared_bytes);
  if (threadIdx.x == 0) init_barriers(shared);
  __syncthreads();
  // The producer waits by itself.
  if (threadIdx.x >= 32) {
    wait_for_previous();
    let_next_start();
  }
  if (threadIdx.x < kWarpgroup) {
    give_registers<Shape::kProducerRegisters>();
    if (threadIdx.x < 32) Producer<Shape>(map, params, shared).run();
  } else {
    take_registers<Shape::kConsumerRegisters>();
    Consumer<T, Shape>(params, shared).run();
  }
#endif
}

}  // namespace pw::prefill
