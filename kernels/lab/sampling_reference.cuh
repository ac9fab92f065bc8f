// What sampling and scoring must answer: the crate `sampling` in its plainest form, by a full sort and in double precision.
// Host code.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <vector>

#include "pagewise/sampling.h"

namespace lab {

// How a slot's owner wants tokens chosen, with its lists.
struct Wishes {
  PwSlotParams params;
  std::vector<PwLogitBias> biases;
  std::vector<int32_t> stop_tokens;
  std::vector<PwSeenToken> history;
};

// Everything off, as `SamplingParams::default()`.
inline Wishes greedy_wishes() {
  Wishes wishes = {};
  wishes.params.top_p = 1.0f, wishes.params.repetition_penalty = 1.0f;
  wishes.params.num_top = -1, wishes.params.history_len = -1;
  return wishes;
}

inline std::vector<float> adjusted(std::vector<float> logits, const Wishes& wishes, int output_position) {
  const PwSlotParams& params = wishes.params;
  const auto exists = [&](int token) { return token < int(logits.size()); };
  for (const PwLogitBias& bias : wishes.biases) {
    if (exists(bias.token)) logits[bias.token] += bias.bias;
  }
  for (int token : wishes.stop_tokens) {
    if (output_position < params.min_tokens && exists(token)) logits[token] = -INFINITY;
  }
  if (params.history_len < 0) return logits;
  for (PwSeenToken seen : wishes.history) {
    const int token = int(seen & ((1u << PW_SEEN_TOKEN_BITS) - 1)), count = int(seen >> PW_SEEN_TOKEN_BITS);
    if (!exists(token)) continue;
    float& logit = logits[token];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    if (count == 0) continue;
    logit -= params.frequency_penalty * float(count);
    logit -= params.presence_penalty;
  }
  return logits;
}

// As `random.rs` defines it.
inline double uniform(const PwSlotParams& params, int output_position) {
  uint32_t c[4] = {uint32_t(output_position), params.sample_index, 0, 0};
  uint32_t k[2] = {uint32_t(params.seed), uint32_t(params.seed >> 32)};
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
    const uint32_t next[4] = {uint32_t(p1 >> 32) ^ c[1] ^ k[0], uint32_t(p1), uint32_t(p0 >> 32) ^ c[3] ^ k[1], uint32_t(p0)};
    std::memcpy(c, next, sizeof c);
    k[0] += 0x9E3779B9u, k[1] += 0xBB67AE85u;
  }
  return double((uint64_t(c[0]) << 32 | c[1]) >> 11) / 9007199254740992.0;
}

// e^x as `exponential.rs` rounds it.
inline float rounded_exp(float x) {
  if (x < -87.0f) return 0.0f;
  const float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  const float r = x - n * 0.6933594f + n * 2.1219444e-4f;
  float p = 1.9875691e-4f;
  for (float c : {1.3982e-3f, 8.333452e-3f, 4.1665796e-2f, 1.6666665e-1f, 0.5f}) p = p * r + c;
  return std::ldexp(p * r * r + r + 1.0f, int(n));
}

// Larger logits first, lower ids first among equals.
inline std::vector<int> rank_order(const std::vector<float>& logits) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  return order;
}

// Whether weights are those of the real numbers, or as the crate rounds them.
enum class Exponential { kExact, kRounded };

struct Choice {
  // -1: a fault
  int token;
  // By which share of the total weight any sum behind the choice is away from where it would fall otherwise
  double margin;
};

inline bool are_finite(const std::vector<float>& logits) {
  return std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
}

inline Choice choice(const std::vector<float>& raw, const Wishes& wishes, int output_position, Exponential exponential) {
  const PwSlotParams& params = wishes.params;
  if (!are_finite(raw)) return {-1, 1.0};
  const std::vector<float> logits = adjusted(raw, wishes, output_position);
  std::vector<int> order = rank_order(logits);
  const float max = logits[order[0]];
  if (!std::isfinite(max)) return {-1, 1.0};
  if (params.temperature == 0.0f) return {order[0], 1.0};

  std::vector<double> weights(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    weights[i] = exponential == Exponential::kExact ? std::exp((double(logits[i]) - double(max)) / double(params.temperature))
                                                    : rounded_exp((logits[i] - max) / params.temperature);
  }
  const auto sum_of = [&] {
    return std::accumulate(order.begin(), order.end(), 0.0, [&](double sum, int token) { return sum + weights[token]; });
  };
  double margin = 1.0;
  if (params.top_k > 0 && size_t(params.top_k) < order.size()) order.resize(params.top_k);
  if (params.top_p < 1.0f) {
    const double total = sum_of(), goal = double(params.top_p) * total;
    double sum = 0.0;
    size_t len = 0;
    while (len < order.size() && (len == 0 || sum < goal)) {
      margin = std::min(margin, len == 0 ? 1.0 : (goal - sum) / total);
      sum += weights[order[len++]];
    }
    margin = std::min(margin, (sum - goal) / total);
    order.resize(len);
  }
  order.erase(std::remove_if(order.begin(), order.end(),
                             [&](int token) {
                               const double away = std::abs(weights[token] - double(params.min_p));
                               const bool is_near = exponential == Exponential::kExact && params.min_p > 0.0f;
                               if (is_near && token != order[0]) margin = std::min(margin, away);
                               return weights[token] < double(params.min_p);
                             }),
              order.end());
  std::sort(order.begin(), order.end());
  const double total = sum_of(), goal = uniform(params, output_position) * total;
  double sum = 0.0;
  for (int token : order) {
    margin = std::min(margin, sum > 0.0 ? (goal - sum) / total : 1.0);
    sum += weights[token];
    if (sum > goal) return {token, std::min(margin, (sum - goal) / total)};
  }
  return {-1, 0.0};
}

struct Scores {
  std::vector<double> logprobs;
  std::vector<int> order;
};

// Of all tokens.
inline Scores scores_of(const std::vector<float>& logits) {
  Scores scores = {{}, rank_order(logits)};
  const double max = logits[scores.order[0]];
  double sum = 0.0;
  for (float logit : logits) sum += std::exp(double(logit) - max);
  for (float logit : logits) scores.logprobs.push_back(double(logit) - max - std::log(sum));
  return scores;
}

// What a slot's history becomes when `token` is sampled.
inline void remember(std::vector<PwSeenToken>& history, int token, int max_history) {
  constexpr PwSeenToken kOne = 1u << PW_SEEN_TOKEN_BITS;
  for (PwSeenToken& seen : history) {
    if (int(seen % kOne) != token) continue;
    if (seen / kOne < 0xfff) seen += kOne;
    return;
  }
  if (int(history.size()) < max_history) history.push_back(PwSeenToken(token) | kOne);
}

}  // namespace lab
