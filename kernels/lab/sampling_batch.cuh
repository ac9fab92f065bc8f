// Rows to sample or to score on the device, and the check of what comes back against the reference.
#pragma once

#include "lab.cuh"
#include "sampling/plan.cuh"
#include "sampling_reference.cuh"

namespace lab {

using pw::sampling::Plan;

constexpr int kMaxTop = 24;
constexpr int kNotSampled = -7;

struct Row {
  std::vector<float> logits;
  Wishes wishes;
  PwLogitJob job;
};

// What comes back.
struct Answers {
  std::vector<PwSampleResult> results;
  std::vector<PwTopToken> top;
  std::vector<int32_t> last;
  std::vector<int32_t> lens;
  std::vector<PwSeenToken> histories;
};

// Rows of one vocabulary on the device, each with a slot of its own, in reverse order and with one to spare.
class Batch {
 public:
  Batch(const std::vector<Row>& rows, int max_history) : rows_(rows), max_history_(max_history) {
    const int num = int(rows.size()), slots = num + 1, vocab = int(rows[0].logits.size());
    std::vector<float> logits;
    std::vector<PwLogitJob> jobs;
    std::vector<PwSlotParams> params(slots);
    std::vector<PwLogitBias> biases(size_t(slots) * PW_MAX_LOGIT_BIASES);
    std::vector<int32_t> stops(size_t(slots) * PW_MAX_STOP_TOKENS), lens(slots);
    std::vector<PwSeenToken> histories(size_t(slots) * max_history);
    for (int i = 0; i < num; ++i) {
      const Wishes& wishes = rows[i].wishes;
      const size_t slot = slot_of(i);
      logits.insert(logits.end(), rows[i].logits.begin(), rows[i].logits.end());
      jobs.push_back(rows[i].job), jobs.back().slot = int32_t(slot);
      params[slot] = wishes.params;
      std::copy(wishes.biases.begin(), wishes.biases.end(), biases.begin() + slot * PW_MAX_LOGIT_BIASES);
      std::copy(wishes.stop_tokens.begin(), wishes.stop_tokens.end(), stops.begin() + slot * PW_MAX_STOP_TOKENS);
      std::copy(wishes.history.begin(), wishes.history.end(), histories.begin() + slot * max_history);
      lens[slot] = int32_t(wishes.history.size());
    }
    logits_ = Device<float>(logits), jobs_ = Device<PwLogitJob>(jobs), params_ = Device<PwSlotParams>(params);
    biases_ = Device<PwLogitBias>(biases), stops_ = Device<int32_t>(stops);
    histories_ = Device<PwSeenToken>(histories), lens_ = Device<int32_t>(lens);
    last_ = Device<int32_t>(std::vector<int32_t>(slots, kNotSampled));
    results_ = Device<PwSampleResult>(num), top_ = Device<PwTopToken>(size_t(num) * kMaxTop);
    results_.poison(), top_.poison();
    op_ = {logits_.get(), jobs_.get(), {}, results_.get(), top_.get(), kMaxTop, num, nullptr};
    op_.state = {params_.get(), biases_.get(), stops_.get(), histories_.get(), lens_.get(), last_.get(), max_history, vocab};
  }

  // By the library, or as a lab program plans it.
  void run(const Plan* plan) {
    const int vocab = op_.state.vocab_size;
    scratch_ = Device<uint8_t>(plan == nullptr ? size_t(pw_sample_scratch_bytes(op_.rows, vocab))
                                               : size_t(scratch_bytes(*plan, op_.rows, vocab)));
    op_.scratch = scratch_.get();
    LAB_OK(plan == nullptr ? pw_sample(&op_, nullptr) : launch(op_, *plan, nullptr));
    LAB_CUDA(cudaDeviceSynchronize());
  }

  void check(const char* name) {
    got_ = {results_.read(), top_.read(), last_.read(), lens_.read(), histories_.read()};
    num_wrong_ = num_undecided_ = 0;
    for (int i = 0; i < int(rows_.size()); ++i) check_row(name, i);
    char what[96];
    std::snprintf(what, sizeof what, "%s: %d x %d, %d near a border", name, op_.rows, op_.state.vocab_size, num_undecided_);
    lab::check(what, num_wrong_, 0);
    // Borders are where sums differ by roundings only: rare, or the check says little.
    if (num_undecided_ * 20 > int(rows_.size()) + 20) lab::check("too many rows near a border", num_undecided_, 0);
  }

  // Weights and goals are sums of few bits, so that even a border is no matter of rounding.
  bool are_sums_exact = false;

 private:
  size_t slot_of(int row) const { return rows_.size() - size_t(row); }

  void expect(bool holds, const char* name, int row, const char* what, double got, double expected) {
    if (holds) return;
    num_wrong_ += 1;
    if (num_wrong_ > 4) return;
    const PwSlotParams& p = rows_[row].wishes.params;
    std::printf("     %s row %d: %s is %.9g, not %.9g ", name, row, what, got, expected);
    std::printf("(temperature %g top_k %d top_p %.8g min_p %g history %d biases %d)\n", p.temperature, p.top_k, p.top_p, p.min_p,
                p.history_len, p.num_biases);
  }

  void check_row(const char* name, int i) {
    const Row& row = rows_[i];
    const PwSampleResult& result = got_.results[i];
    const size_t slot = slot_of(i);
    const bool is_padding = row.job.token_index < 0, is_sample = PW_JOB_IS_SAMPLE(row.job);
    std::vector<PwSeenToken> history = row.wishes.history;
    int sampled = kNotSampled;
    if (is_padding) {
      expect(result.token == -1 && result.fault == -1, name, i, "the token of padding", result.token, -1);
    } else {
      const bool is_sound = is_sample ? check_choice(name, i) : are_finite(row.logits);
      expect(result.fault == (is_sound ? PW_FAULT_NONE : PW_FAULT_NON_FINITE), name, i, "the fault", result.fault, !is_sound);
      if (is_sound && is_sample) sampled = result.token;
      if (is_sound && (!is_sample || row.wishes.params.num_top >= 0)) check_scores(name, i);
    }
    expect(got_.last[slot] == sampled, name, i, "last_sampled", got_.last[slot], sampled);
    if (sampled >= 0 && row.wishes.params.history_len >= 0) remember(history, sampled, max_history_);
    const bool is_same = got_.lens[slot] == int(history.size()) &&
                         std::equal(history.begin(), history.end(), got_.histories.begin() + slot * size_t(max_history_));
    expect(is_same, name, i, "the history's length", got_.lens[slot], double(history.size()));
  }

  // Whether a token is to be expected.
  bool check_choice(const char* name, int i) {
    const Row& row = rows_[i];
    // Sums that are formed in another order differ by this; weights of the real numbers by that.
    constexpr double kOrder = 1e-11, kRounding = 2e-6;
    const Choice rounded = choice(row.logits, row.wishes, row.job.argument, Exponential::kRounded);
    if (rounded.token < 0) return false;
    if (rounded.margin > kOrder || are_sums_exact) {
      expect(got_.results[i].token == rounded.token, name, i, "the token", got_.results[i].token, rounded.token);
    } else {
      num_undecided_ += 1;
    }
    const Choice exact = choice(row.logits, row.wishes, row.job.argument, Exponential::kExact);
    const int token = got_.results[i].token;
    if (exact.margin > kRounding) expect(token == exact.token, name, i, "the token", token, exact.token);
    return true;
  }

  void check_scores(const char* name, int i) {
    const Row& row = rows_[i];
    const PwSampleResult& result = got_.results[i];
    const Scores scores = scores_of(row.logits);
    const bool is_sample = PW_JOB_IS_SAMPLE(row.job);
    const int vocab = op_.state.vocab_size;
    const int num_top = std::min(is_sample ? row.wishes.params.num_top : row.job.num_top, vocab);
    const auto is_near = [](float got, double expected) {
      return got == float(expected) || std::abs(got - expected) < 1e-6 + 2e-7 * std::abs(expected);
    };
    if (!is_sample) expect(result.token == row.job.argument, name, i, "the target", result.token, row.job.argument);
    if (result.token < 0 || result.token >= vocab) return;
    const double logprob = scores.logprobs[result.token];
    expect(is_near(result.logprob, logprob), name, i, "the log-probability", result.logprob, logprob);
    const float target = row.logits[result.token];
    const int rank = 1 + int(std::count_if(row.logits.begin(), row.logits.end(), [&](float logit) { return logit > target; }));
    expect(result.rank == rank, name, i, "the rank", result.rank, rank);
    expect(result.num_top == num_top, name, i, "the number of top tokens", result.num_top, num_top);
    for (int at = 0; at < kMaxTop; ++at) {
      const PwTopToken& got = got_.top[size_t(i) * kMaxTop + at];
      const int token = at < num_top ? scores.order[at] : -1;
      expect(got.token == token, name, i, "a top token", got.token, token);
      if (at >= num_top) continue;
      const double expected = scores.logprobs[token];
      expect(is_near(got.logprob, expected), name, i, "its log-probability", got.logprob, expected);
    }
  }

  const std::vector<Row>& rows_;
  const int max_history_;
  PwSample op_ = {};
  int num_wrong_ = 0, num_undecided_ = 0;
  Answers got_;
  Device<float> logits_;
  Device<PwLogitJob> jobs_;
  Device<PwSlotParams> params_;
  Device<PwLogitBias> biases_;
  Device<int32_t> stops_, lens_, last_;
  Device<PwSeenToken> histories_;
  Device<PwSampleResult> results_;
  Device<PwTopToken> top_;
  Device<uint8_t> scratch_;
};

}  // namespace lab
