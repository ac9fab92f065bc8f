// Problems for the decode attention lab: random contexts in shuffled, poisoned blocks, the host's plan of splits, and the
// answer in float64. Knows no kernel.
#pragma once

#include <string>

#include "lab.cuh"

namespace lab {

struct AttentionShape {
  int heads, kv_heads, dim, block, window;
};

inline size_t element_bytes(PwElement element) { return element == PW_F32 ? 4 : 2; }

inline void put(std::vector<uint8_t>& bytes, size_t index, float value, PwElement element) {
  const uint16_t half = element == PW_F32 ? 0 : to_bits(value, element);
  std::memcpy(&bytes[index * element_bytes(element)], element == PW_F32 ? (const void*)&value : &half,
              element_bytes(element));
}

inline float get(const std::vector<uint8_t>& bytes, size_t index, PwElement element) {
  float value;
  uint16_t half;
  std::memcpy(element == PW_F32 ? (void*)&value : &half, &bytes[index * element_bytes(element)], element_bytes(element));
  return element == PW_F32 ? value : from_bits(half, element);
}

constexpr int kMaxSplits = 16;

// How long the splits of a context are, as crates/backend-cuda/src/plan.rs cuts it.
inline int split_tokens_of(int num_tokens) {
  constexpr int kStep = 256;
  const int per_split = (num_tokens + kMaxSplits - 1) / kMaxSplits;
  return std::max((per_split + kStep - 1) / kStep, 1) * kStep;
}

// What the host does once a step: splits of each token's context, at most kMaxSplits of them.
struct Plan {
  std::vector<PwDecodeItem> items;
  int partials = 0;
  int counters = 0;

  void add(int token, int slot, int begin, int end, int split_tokens) {
    const int splits = (end - begin + split_tokens - 1) / split_tokens;
    for (int i = 0; i < splits; ++i) {
      const int from = begin + i * split_tokens;
      items.push_back({token, slot, from, std::min(from + split_tokens, end), i, splits, partials, counters});
    }
    if (splits > 1) partials += splits, counters += 1;
  }
};

// One decode token for each context. Every byte of the pool that no token may see is a NaN.
struct Problem {
  static constexpr int kLayers = 2;

  AttentionShape shape;
  PwElement element, kv_element;
  std::vector<int> contexts;
  int q_stride;
  int blocks_per_slot;
  int num_blocks = 1;  // the first is never used
  std::vector<int32_t> tables;
  std::vector<uint8_t> q, pool;

  Problem(AttentionShape shape, PwElement element, PwElement kv_element, std::vector<int> contexts, uint64_t seed)
      : shape(shape), element(element), kv_element(kv_element), contexts(contexts) {
    Random random(seed);
    q_stride = (shape.heads + 2 * shape.kv_heads) * shape.dim;
    q.assign(tokens() * q_stride * element_bytes(element), 0xff);
    for (int t = 0; t < tokens(); ++t) {
      for (int i = 0; i < shape.heads * shape.dim; ++i) put(q, size_t(t) * q_stride + i, random.normal(), element);
    }
    blocks_per_slot = *std::max_element(contexts.begin(), contexts.end()) / shape.block + 2;
    std::vector<int> shuffled;
    for (int t = 0; t < tokens(); ++t) {
      for (int at = 0; at < contexts[t]; at += shape.block) shuffled.push_back(num_blocks++);
    }
    for (size_t i = shuffled.size(); i > 1; --i) std::swap(shuffled[i - 1], shuffled[random.below(int(i))]);
    tables.assign(tokens() * blocks_per_slot, 0);
    pool.assign(size_t(num_blocks) * block_stride() * element_bytes(kv_element), 0xff);
    size_t taken = 0;
    for (int t = 0; t < tokens(); ++t) {
      for (int at = 0; at < contexts[t]; at += shape.block) {
        const int block = shuffled[taken++];
        if (at + shape.block > begin(t)) tables[slot(t) * blocks_per_slot + at / shape.block] = block;
      }
      for (int at = begin(t); at < contexts[t]; ++at) {
        for (int h = 0; h < shape.kv_heads; ++h) {
          for (int d = 0; d < shape.dim; ++d) {
            put(pool, key_at(t, at, h) + d, random.normal(), kv_element);
            put(pool, value_at(t, at, h) + d, random.normal(), kv_element);
          }
        }
      }
    }
  }

  int tokens() const { return int(contexts.size()); }
  int slot(int token) const { return tokens() - 1 - token; }
  int begin(int token) const { return shape.window > 0 ? std::max(0, contexts[token] - shape.window) : 0; }
  int64_t half() const { return int64_t(shape.kv_heads) * shape.block * shape.dim; }
  int64_t block_stride() const { return kLayers * 2 * half(); }
  int64_t layer_offset() const { return (kLayers - 1) * 2 * half(); }
  size_t key_at(int token, int position, int head) const {
    const int block = tables[slot(token) * blocks_per_slot + position / shape.block];
    const int64_t row = int64_t(head) * shape.block + position % shape.block;
    return block * block_stride() + layer_offset() + row * shape.dim;
  }
  size_t value_at(int token, int position, int head) const { return key_at(token, position, head) + half(); }

  // Of all tokens, or of one; 0 stands for the library's own split.
  Plan plan(int split_tokens, int only = -1) const {
    Plan plan;
    for (int t = 0; t < tokens(); ++t) {
      const int seen = contexts[t] - begin(t);
      const int split = split_tokens > 0 ? split_tokens : split_tokens_of(seen);
      if (only < 0 || t == only) plan.add(t, slot(t), begin(t), contexts[t], split);
    }
    return plan;
  }

  float scale() const { return 1.0f / std::sqrt(float(shape.dim)); }

  std::vector<double> answer() const {
    std::vector<double> out(size_t(tokens()) * shape.heads * shape.dim);
    const int group = shape.heads / shape.kv_heads;
    for (int t = 0; t < tokens(); ++t) {
      for (int h = 0; h < shape.heads; ++h) {
        std::vector<double> weights;
        double largest = -INFINITY, sum = 0;
        for (int at = begin(t); at < contexts[t]; ++at) {
          double score = 0;
          for (int d = 0; d < shape.dim; ++d) {
            score += double(get(q, size_t(t) * q_stride + h * shape.dim + d, element)) *
                     get(pool, key_at(t, at, h / group) + d, kv_element);
          }
          weights.push_back(score * scale());
          largest = std::max(largest, weights.back());
        }
        for (auto& weight : weights) sum += weight = std::exp(weight - largest);
        double* to = &out[(size_t(t) * shape.heads + h) * shape.dim];
        for (int at = begin(t); at < contexts[t]; ++at) {
          const double weight = weights[at - begin(t)] / sum;
          for (int d = 0; d < shape.dim; ++d) to[d] += weight * get(pool, value_at(t, at, h / group) + d, kv_element);
        }
      }
    }
    return out;
  }

  std::string name() const {
    static const char* const kNames[] = {"f32", "f16", "bf16"};
    std::string text = std::to_string(shape.heads) + "/" + std::to_string(shape.kv_heads) + " x " +
                       std::to_string(shape.dim) + ", blocks of " + std::to_string(shape.block) + ", " + kNames[element];
    if (kv_element != element) text += std::string(" over ") + kNames[kv_element];
    if (shape.window > 0) text += ", window " + std::to_string(shape.window);
    return text;
  }
};

}  // namespace lab
