// Problems for the prefill attention lab: random contexts in shuffled, poisoned blocks, rows cut into tiles, and the answer in
// float64. Knows no kernel.
#pragma once

#include <climits>
#include <string>
#include <thread>

#include "lab.cuh"

namespace lab::prefill {

struct Shape {
  int heads, kv_heads, dim, block, window;
};

// A row's context, and how many of its last tokens are new.
struct Row {
  int context, num_new;
};

struct Problem {
  static constexpr int kLayers = 2, kLayer = 1;
  Shape shape;
  PwElement element;
  std::vector<Row> rows;
  std::vector<uint16_t> q, pool;
  std::vector<int32_t> tables;
  int num_blocks, blocks_per_slot = 1;

  int64_t q_stride() const { return int64_t(shape.heads + 2 * shape.kv_heads) * shape.dim; }
  int64_t layer_elements() const { return 2ll * shape.kv_heads * shape.block * shape.dim; }
  int64_t block_stride() const { return kLayers * layer_elements(); }
  float scale() const { return 1.0f / std::sqrt(float(shape.dim)); }
  int num_tokens() const {
    int sum = 0;
    for (const Row& row : rows) sum += row.num_new;
    return sum;
  }
  int first_seen(int position) const { return shape.window > 0 ? std::max(0, position + 1 - shape.window) : 0; }

  // Everything that no token may see is NaN: other layers, block 0, ends of blocks, blocks before a window.
  Problem(Shape shape, PwElement element, std::vector<Row> rows, uint64_t seed)
      : shape(shape), element(element), rows(std::move(rows)) {
    Random random(seed);
    // Repeated with a period that shares no factor with any stride: random numbers take longer than the kernels.
    const std::vector<uint16_t> values = random_elements(65521, element, random);
    q.resize(size_t(num_tokens()) * q_stride());
    for (size_t i = 0; i < q.size(); ++i) q[i] = values[(i + 31) % values.size()];
    num_blocks = 1;
    for (const Row& row : this->rows) {
      const int blocks = (row.context + shape.block - 1) / shape.block;
      blocks_per_slot = std::max(blocks_per_slot, blocks);
      num_blocks += blocks;
    }
    std::vector<int> free_blocks;
    for (int i = 1; i < num_blocks; ++i) free_blocks.push_back(i);
    for (int i = num_blocks - 2; i > 0; --i) std::swap(free_blocks[i], free_blocks[random.below(i + 1)]);
    pool.assign(size_t(num_blocks) * block_stride(), 0xffff);
    tables.assign(this->rows.size() * blocks_per_slot, 0);
    size_t next = 0;
    for (size_t slot = 0; slot < this->rows.size(); ++slot) {
      const Row& row = this->rows[slot];
      const int begin = first_seen(row.context - row.num_new) / shape.block * shape.block;
      for (int position = begin; position < row.context; ++position) {
        int32_t& entry = tables[slot * blocks_per_slot + position / shape.block];
        if (position % shape.block == 0) entry = free_blocks.back(), free_blocks.pop_back();
        for (int part = 0; part < 2; ++part) {
          for (int head = 0; head < shape.kv_heads; ++head) {
            uint16_t* to = &pool[offset(int(slot), position, head, part)];
            for (int i = 0; i < shape.dim; ++i) to[i] = values[next++ % values.size()];
          }
        }
      }
    }
  }

  size_t offset(int slot, int position, int head, int part) const {
    const int64_t block = tables[size_t(slot) * blocks_per_slot + position / shape.block];
    const int64_t token = (int64_t(part) * shape.kv_heads + head) * shape.block + position % shape.block;
    return size_t(block * block_stride() + kLayer * layer_elements() + token * shape.dim);
  }

  // Most tokens of a tile.
  int tile_tokens() const { return pw_prefill_tile_tokens(shape.heads, shape.kv_heads, shape.dim); }

  // Tiles of all rows, or of those named, longest contexts first. A row comes in chunks of so many tokens.
  std::vector<PwPrefillTile> tiles(int chunk = INT_MAX, int only = -1) const {
    std::vector<PwPrefillTile> out;
    int token = 0;
    for (int slot = 0; slot < int(rows.size()); ++slot) {
      const Row& row = rows[slot];
      for (int i = 0, len; i < row.num_new && (only < 0 || only == slot); i += len) {
        len = std::min({tile_tokens(), row.num_new - i, chunk - i % chunk});
        out.push_back({token + i, len, row.context - row.num_new + i, slot});
      }
      token += row.num_new;
    }
    std::stable_sort(out.begin(), out.end(), [](const PwPrefillTile& a, const PwPrefillTile& b) {
      return a.first_position + a.num_tokens > b.first_position + b.num_tokens;
    });
    return out;
  }

  // In float64, a token's heads.
  void answer_token(int slot, int token, int position, double* out) const {
    std::vector<double> terms;
    for (int head = 0; head < shape.heads; ++head) {
      const int kv_head = head / (shape.heads / shape.kv_heads), begin = first_seen(position);
      const uint16_t* query = &q[token * q_stride() + head * shape.dim];
      terms.assign(position + 1 - begin, 0.0);
      double largest = -INFINITY, total = 0;
      for (int p = begin; p <= position; ++p) {
        const uint16_t* key = &pool[offset(slot, p, kv_head, 0)];
        double sum = 0;
        for (int i = 0; i < shape.dim; ++i) sum += double(from_bits(query[i], element)) * from_bits(key[i], element);
        terms[p - begin] = sum * scale();
        largest = std::max(largest, terms[p - begin]);
      }
      for (double& term : terms) total += term = std::exp(term - largest);
      double* to = out + head * shape.dim;
      std::fill(to, to + shape.dim, 0.0);
      for (int p = begin; p <= position; ++p) {
        const uint16_t* value = &pool[offset(slot, p, kv_head, 1)];
        for (int i = 0; i < shape.dim; ++i) to[i] += terms[p - begin] / total * from_bits(value[i], element);
      }
    }
  }

  std::vector<double> answer() const {
    const size_t row_elements = size_t(shape.heads) * shape.dim;
    std::vector<double> out(num_tokens() * row_elements);
    const int workers = std::max(1u, std::min(16u, std::thread::hardware_concurrency()));
    std::vector<std::thread> threads;
    for (int worker = 0; worker < workers; ++worker) {
      threads.emplace_back([&, worker] {
        int token = 0;
        for (int slot = 0; slot < int(rows.size()); ++slot) {
          for (int i = 0; i < rows[slot].num_new; ++i, ++token) {
            if (token % workers != worker) continue;
            answer_token(slot, token, rows[slot].context - rows[slot].num_new + i, &out[token * row_elements]);
          }
        }
      });
    }
    for (auto& thread : threads) thread.join();
    return out;
  }

  std::string name() const {
    char text[160];
    int longest = 0;
    for (const Row& row : rows) longest = std::max(longest, row.context);
    std::snprintf(text, sizeof text, "%s %d/%d d%d block %d window %d, %zu rows, %d new, context %d",
                  element == PW_BF16 ? "bf16" : "fp16", shape.heads, shape.kv_heads, shape.dim, shape.block, shape.window,
                  rows.size(), num_tokens(), longest);
    return text;
  }
};

}  // namespace lab::prefill
