// Timing of decode attention over a pool as the engine has it: most of the card, every layer's part of a block beside the
// others', blocks in random order. Knows no kernel.
#pragma once

#include "decode_attention_problem.cuh"

namespace lab {

__global__ void fill_random_bf16(uint4* to, size_t len) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < len; i += size_t(gridDim.x) * blockDim.x) {
    uint32_t words[4];
    for (int w = 0; w < 4; ++w) {
      uint32_t z = uint32_t(i) * 4 + w + uint32_t(i >> 30) * 0x9e3779b9u;
      z = (z ^ z >> 16) * 0x7feb352du;
      z = (z ^ z >> 15) * 0x846ca68bu;
      z ^= z >> 16;
      // Either sign, from 1/2 to 2.
      words[w] = (z & 0x80ff80ffu) | 0x3f003f00u;
    }
    to[i] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

__global__ void __launch_bounds__(512) read_all(const uint4* from, size_t len, uint32_t* to) {
  uint32_t total = 0;
  for (size_t i = blockIdx.x * size_t(512 * 8) + threadIdx.x; i + 7 * 512 < len; i += size_t(gridDim.x) * 512 * 8) {
    uint4 v[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) v[k] = __ldcs(from + i + k * 512);
#pragma unroll
    for (int k = 0; k < 8; ++k) total += v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (total == 0x12345678) *to = total;
}

struct DecodeShape {
  int heads, kv_heads, dim;
  int tokens, context;
  double bytes() const { return double(tokens) * context * kv_heads * dim * 4; }
};

class DecodeBench {
 public:
  DecodeBench() {
    size_t free_bytes, total;
    LAB_CUDA(cudaMemGetInfo(&free_bytes, &total));
    while (size_t(layers_) * kBlocks * kBlockBytes + (3ull << 30) > free_bytes) layers_ /= 2;
    pool_ = Device<uint8_t>(size_t(layers_) * kBlocks * kBlockBytes);
    q_ = Device<uint8_t>(kMaxTokens * kQStride * 2);
    fill_random_bf16<<<2048, 256>>>(reinterpret_cast<uint4*>(pool_.get()), pool_.len() / 16);
    fill_random_bf16<<<256, 256>>>(reinterpret_cast<uint4*>(q_.get()), q_.len() / 16);
    LAB_CUDA(cudaDeviceSynchronize());
    std::vector<int32_t> blocks(kBlocks);
    for (int i = 0; i < kBlocks; ++i) blocks[i] = i;
    Random random(7);
    for (int i = kBlocks; i > 1; --i) std::swap(blocks[i - 1], blocks[random.below(i)]);
    tables_ = Device<int32_t>(blocks);
    counters_.zero(), queue_.zero();
  }

  int layers() const { return layers_; }

  // Terabytes a second of a kernel that only reads, one address after the other.
  double read_rate_tbps() const {
    const size_t bytes = size_t(4) << 30;
    const double us = median_us(2, [&](cudaStream_t stream, int i) {
      read_all<<<132 * 4, 512, 0, stream>>>(reinterpret_cast<const uint4*>(pool_.get() + i * bytes), bytes / 16,
                                            reinterpret_cast<uint32_t*>(out_.get()));
    });
    return double(bytes) / us * 1e-6;
  }

  // Microseconds of one layer. The launch is made for `most_splits` of each token, if there are fewer.
  double time_us(const std::function<PwStatus(const PwDecodeAttention&, PwStream)>& kernel, const DecodeShape& s,
                 int most_splits = 0, int split_tokens = 0) const {
    const int sets = sets_of(s);
    Plan all;
    int num_items = 0;
    for (int set = 0; set < sets; ++set) {
      Plan plan;
      const int split = split_tokens > 0 ? split_tokens : split_tokens_of(s.context);
      for (int t = 0; t < s.tokens; ++t) plan.add(t, set * s.tokens + t, 0, s.context, split);
      all.items.insert(all.items.end(), plan.items.begin(), plan.items.end());
      num_items = int(plan.items.size());
    }
    const Device<PwDecodeItem> items(all.items);
    const Device<int32_t> count(std::vector<int32_t>{num_items});
    const auto enqueue = [&](cudaStream_t stream, int i) {
      PwDecodeAttention op = op_of(s, i % layers_);
      op.items = items.get() + i / layers_ % sets * num_items;
      op.num_items = count.get();
      op.max_items = std::max(num_items, s.tokens * most_splits);
      LAB_OK(kernel(op, stream));
    };
    return median_us(calls_of(s), enqueue, 7);
  }

  // The same by a kernel of prefill attention, for tiles of one token and a launch for at most `max_tile_tokens`.
  double time_tiles_us(const std::function<PwStatus(const PwPrefillAttention&, PwStream)>& kernel, const DecodeShape& s,
                       int max_tile_tokens) const {
    std::vector<PwPrefillTile> all;
    for (int i = 0; i < sets_of(s) * s.tokens; ++i) all.push_back({i % s.tokens, 1, s.context - 1, i});
    const Device<PwPrefillTile> tiles(all);
    const Device<int32_t> count(std::vector<int32_t>{s.tokens});
    Device<int32_t> counters(16);
    counters.zero();
    const auto enqueue = [&](cudaStream_t stream, int i) {
      PwPrefillAttention op = {};
      op.attention = attention_of(s, i % layers_);
      op.tiles = tiles.get() + i / layers_ % sets_of(s) * s.tokens;
      op.num_tiles = count.get();
      op.max_tiles = s.tokens;
      op.max_tile_tokens = max_tile_tokens;
      op.counters = counters.get();
      LAB_OK(kernel(op, stream));
    };
    return median_us(calls_of(s), enqueue, 7);
  }

 private:
  static constexpr int kBlocks = 32768, kBlockSize = 16;
  static constexpr int kMaxTokens = 256, kQStride = 6144, kMaxHeads = 32, kMaxDim = 128, kMaxPartials = 4096;
  static constexpr size_t kBlockBytes = 2 * 8 * kBlockSize * kMaxDim * 2;

  // Tokens of other slots in turn, so that a layer is not read again before the cache has lost it.
  int sets_of(const DecodeShape& s) const { return std::max(1, std::min(24, int(2e8 / (s.bytes() * layers_)))); }

  int calls_of(const DecodeShape& s) const {
    return std::max(std::min(layers_, 8), std::min(layers_ * sets_of(s), int(1.5e9 / s.bytes())));
  }

  PwAttention attention_of(const DecodeShape& s, int layer) const {
    const int64_t layer_elements = 2 * s.kv_heads * kBlockSize * s.dim;
    PwAttention op = {};
    op.q = q_.get();
    op.q_stride = kQStride;
    op.kv = {pool_.get(), layer_elements * layers_, layer_elements * layer, kBlocks, kBlockSize,
             s.kv_heads,  s.dim,                    PW_BF16};
    op.tables = tables_.get();
    op.max_blocks_per_slot = (s.context + kBlockSize - 1) / kBlockSize;
    op.out = out_.get();
    op.num_heads = s.heads;
    op.scale = 0.08f;
    op.element = PW_BF16;
    return op;
  }

  PwDecodeAttention op_of(const DecodeShape& s, int layer) const {
    PwDecodeAttention op = {};
    op.attention = attention_of(s, layer);
    op.partial_out = partial_out_.get();
    op.partial_stats = partial_stats_.get();
    op.counters = counters_.get();
    op.queue = queue_.get();
    return op;
  }

  int layers_ = 32;
  Device<uint8_t> pool_, q_, out_{kMaxTokens * kMaxHeads * kMaxDim * 2};
  Device<int32_t> tables_, counters_{kMaxTokens * kMaxHeads}, queue_{1};
  Device<float> partial_out_{size_t(kMaxPartials) * kMaxHeads * kMaxDim}, partial_stats_{kMaxPartials * kMaxHeads * 2};
};

}  // namespace lab
