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
//
// Nothing beyond the item's last position is read: a block of the pool that is not full ends with what its last owner left.
// The copy engine's box has a fixed number of tokens, so the box of the last positions begins earlier and ends with the last
// position; the columns it repeats stand for none (`Columns`). Boxes that lie wholly beyond arrive as zeros.
#pragma once

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

constexpr int kConsumers = 2;
constexpr int kConsumerWarps = 4 * kConsumers;
constexpr int kThreads = kWarpgroup * (1 + kConsumers);
static_assert(kRows == 64 * kConsumers, "a warpgroup's product has 64 rows");

// An item as the producer sends it. No tokens: there are no more.
struct alignas(16) Item {
  PwPrefillTile tile;
  int kv_head;
};

template <int d, int n, int kSlots>
struct alignas(1024) WarpgroupShared {
  static constexpr int kSlotBytes = n * d * 2;
  static constexpr int kItems = 2;
  // Keys or values of n positions: halves of 64 elements of the head, each [n][64] in the 128-byte swizzle
  uint8_t slots[kSlots][kSlotBytes];
  uint64_t full[kSlots];
  uint64_t empty[kSlots];
  Item items[kItems];
  uint64_t item_full[kItems];
  uint64_t item_empty[kItems];
};

// Tiles of n keys of an item. They begin at a multiple of the box, so that no box holds a position of a block that lies before
// the context: with a sliding window such a block may have another owner by now.
struct KeyTiles {
  int first;
  int end;
  int num_tiles;
};

template <int n>
__device__ __forceinline__ KeyTiles key_tiles_of(const WarpgroupParams& params, const PwPrefillTile& tile) {
  const Context context = context_of(tile, params.op.attention.sliding_window);
  const int first = context.begin & -params.pool.box_tokens;
  return {first, context.end, (context.end - first + n - 1) / n};
}

// Tokens by which the box of the last positions begins early.
__device__ __forceinline__ int shift_of(const Pool& pool, int end) { return -end & (pool.box_tokens - 1); }

#ifdef PW_HAS_WARPGROUP_PRODUCTS

// The warp that moves data: hands out items and fills slots.
template <int d, int n, int kSlots>
class Producer {
 public:
  using Shared = WarpgroupShared<d, n, kSlots>;

  __device__ Producer(const CUtensorMap& map, const WarpgroupParams& params, Shared& shared)
      : map_(map), params_(params), shared_(shared), lane_(threadIdx.x % 32) {}

  __device__ void run() {
    if (lane_ == 0) prefetch_tensor_map(&map_);
    const int num_items = params_.op.num_tiles * params_.op.attention.kv.num_kv_heads;
    Box waiting_values = {};
    bool values_wait = false;
    for (int index = blockIdx.x; index < num_items;) {
      int next = 0;
      if (lane_ == 0) next = gridDim.x + atomicAdd(&params_.op.counters[0], 1);
      const Item item = read_item(index);
      send_item(item);
      const KeyTiles tiles = key_tiles_of<n>(params_, item.tile);
      Box box = box_of(item, tiles, tiles.num_tiles - 1);
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
    send_item(Item{});
    if (values_wait) fill_slot(waiting_values, 0);
    if (lane_ == 0) leave();
  }

 private:
  static constexpr int kHalves = d / 64;

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
    // Tokens beyond a block are beyond the tensor.
    if (position >= tiles.end || lane_ / kHalves * pool.box_tokens >= n) return {0, block_size};
    const PwAttention& attention = params_.op.attention;
    const int32_t* table = attention.tables + int64_t(item.tile.slot) * attention.max_blocks_per_slot;
    const bool is_last = tiles.end - position < pool.box_tokens;
    const int token = (position & (block_size - 1)) - (is_last ? shift_of(pool, tiles.end) : 0);
    return {__ldg(table + (position >> pool.log2_block_size)) * pool.block_heads, token};
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

// A warpgroup's turn to issue products.
class Turns {
 public:
  __device__ explicit Turns(int warpgroup) : warpgroup_(warpgroup) {
    if (warpgroup_ == 1) give(0);
  }
  __device__ void take() const { asm volatile("bar.sync %0, 256;" ::"r"(1 + warpgroup_) : "memory"); }
  __device__ void pass() const { give(1 - warpgroup_); }
  // Every turn given is taken.
  __device__ void end() const {
    if (warpgroup_ == 0) take();
  }

 private:
  static __device__ void give(int to) { asm volatile("bar.arrive %0, 256;" ::"r"(1 + to) : "memory"); }
  const int warpgroup_;
};

// One warpgroup's view of an item: its rows, and the tile of keys whose scores come next.
template <int n>
struct Cursor {
  RowPlaces rows;
  int first_position;
  int last_position;
  int end;
  // Of the next tile
  int first_column;
  int num_left;

  __device__ Cursor(const WarpgroupParams& params, const WarpRows& warp_rows, int lane)
      : rows(places_of(warp_rows, params.op.attention.num_heads, lane)),
        first_position(warp_rows.tile.first_position),
        last_position(first_position + warp_rows.tile.num_tokens - 1) {
    const KeyTiles tiles = key_tiles_of<n>(params, warp_rows.tile);
    end = tiles.end;
    first_column = tiles.first + (tiles.num_tiles - 1) * n;
    num_left = tiles.num_tiles;
  }

  // Masks the scores of the next tile and moves on.
  template <int kScores>
  __device__ void mask(float (&scores)[kScores], const WarpgroupParams& params, int lane) {
    const int window = params.op.attention.sliding_window;
    const int shift = first_column + n >= end ? shift_of(params.pool, end) : 0;
    if (shift != 0) {
      const int shifted = end + shift - params.pool.box_tokens - first_column;
      mask_shifted(scores, rows, Columns{first_column, shifted, shift}, window, lane);
    } else {
      if (first_column + n - 1 > first_position) mask_later(scores, rows, first_column, lane);
      if (window > 0 && first_column <= last_position - window) mask_earlier(scores, rows, first_column, window, lane);
    }
    first_column -= n;
    --num_left;
  }
};

template <class T, int d, int n, int kSlots, bool kTakeTurns>
class Consumer {
 public:
  using Shared = WarpgroupShared<d, n, kSlots>;

  __device__ Consumer(const WarpgroupParams& params, Shared& shared)
      : params_(params),
        shared_(shared),
        lane_(threadIdx.x % 32),
        warpgroup_(threadIdx.x / kWarpgroup - 1),
        first_row_(threadIdx.x / 32 * 16 - kWarpgroup / 32 * 16) {}

  __device__ void run() {
    const Turns turns(warpgroup_);
    load_next_queries();
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
      if (kTakeTurns) turns.take();
      const int key_slot = begin_slot();
      products_begin();
      multiply_keys(scores, key_slot);
      products_commit();
      const uint32_t value_parity = at_.parity;
      const int value_slot = begin_slot();
      products_begin();
      multiply_values(sums, terms, value_slot, accumulate);
      products_commit();
      if (kTakeTurns) turns.pass();

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
    products_begin();
    multiply_values(sums, terms, slot, accumulate);
    products_commit();
    products_wait<0>();
    pin(sums);
    row_sums(statistics);
    store_rows<T, d>(params_.op.attention, now.rows, sums, statistics.sum, lane_);
    if (kTakeTurns) turns.end();
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

template <int d, int n, int kSlots>
__device__ void init_barriers(WarpgroupShared<d, n, kSlots>& shared) {
  for (int i = 0; i < kSlots; ++i) {
    mbarrier_init(&shared.full[i], 1);
    mbarrier_init(&shared.empty[i], kConsumerWarps);
  }
  for (int i = 0; i < WarpgroupShared<d, n, kSlots>::kItems; ++i) {
    mbarrier_init(&shared.item_full[i], 1);
    mbarrier_init(&shared.item_empty[i], kConsumerWarps);
  }
  mbarrier_init_done();
}

#endif

// n: positions of a tile of keys; kSlots: tiles of keys or values that are on the way.
template <class T, int d, int n, int kSlots, bool kTakeTurns>
__global__ void __launch_bounds__(kThreads, 1)
    warpgroup_kernel(const __grid_constant__ CUtensorMap map, const __grid_constant__ WarpgroupParams params) {
#ifdef PW_HAS_WARPGROUP_PRODUCTS
  extern __shared__ __align__(1024) uint8_t shared_bytes[];
  auto& shared = *reinterpret_cast<WarpgroupShared<d, n, kSlots>*>(shared_bytes);
  if (threadIdx.x == 0) init_barriers(shared);
  __syncthreads();
  if (threadIdx.x < kWarpgroup) {
    give_registers<24>();
    if (threadIdx.x < 32) Producer<d, n, kSlots>(map, params, shared).run();
  } else {
    take_registers<240>();
    Consumer<T, d, n, kSlots, kTakeTurns>(params, shared).run();
  }
#endif
}

}  // namespace pw::prefill
