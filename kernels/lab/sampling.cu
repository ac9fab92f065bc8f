// Sampling and scoring: against double precision, then timed beside the bytes of the logits. `--check`: only the former.
#include "sampling/config.cuh"
#include "sampling_batch.cuh"

namespace {

using lab::Batch;
using lab::Device;
using lab::Random;
using lab::Row;
using lab::Wishes;
using pw::sampling::Plan;

enum class Pattern { kNormal, kFlat, kCoarse, kEqual, kTwoLevels, kWide, kSpike, kHalf, kNarrow, kZeros, kHuge, kNum };

std::vector<float> logits_of(Pattern pattern, int vocab, Random& random) {
  std::vector<float> logits(vocab);
  for (float& logit : logits) {
    const float normal = random.normal();
    switch (pattern) {
      case Pattern::kFlat: logit = 0.1f * normal; break;
      case Pattern::kCoarse: logit = std::floor(4 * normal) / 2; break;
      case Pattern::kEqual: logit = 1.5f; break;
      case Pattern::kTwoLevels: logit = normal > 0.5f ? 3.0f : -1.0f; break;
      case Pattern::kWide: logit = 30 * normal; break;
      case Pattern::kHalf: logit = lab::from_bits(lab::to_bits(3 * normal, PW_BF16), PW_BF16); break;
      case Pattern::kNarrow: logit = 20 + 1e-5f * normal; break;
      case Pattern::kZeros: logit = normal > 0 ? 0.0f : -0.0f; break;
      case Pattern::kHuge: logit = 0.9e38f * normal; break;
      default: logit = 3 * normal;
    }
  }
  if (pattern == Pattern::kSpike) logits[random.below(vocab)] = 40.0f;
  return logits;
}

template <class T, size_t N>
T one_of(const T (&values)[N], Random& random) {
  return values[random.below(N)];
}

std::vector<int> distinct_tokens(int num, int vocab, Random& random) {
  std::vector<int> tokens;
  for (int i = 0; i < num; ++i) tokens.push_back(random.below(vocab));
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

// Tokens of lists may lie beyond the vocabulary.
Wishes random_wishes(int vocab, Random& random) {
  Wishes wishes = lab::greedy_wishes();
  PwSlotParams& params = wishes.params;
  params.temperature = one_of({0.0f, 0.3f, 1.0f, 1.0f, 1.7f, 100.0f, 1e-5f}, random);
  params.top_p = one_of({1.0f, 1.0f, 0.99999994f, 0.9f, 0.5f, 0.1f, 1e-6f, 0.0f}, random);
  params.top_k = one_of({0, 0, 1, 2, 5, 50, 1000, vocab - 1, vocab, 2 * vocab}, random);
  params.min_p = one_of({0.0f, 0.0f, 0.05f, 0.5f, 1.0f}, random);
  params.seed = random.next(), params.sample_index = uint32_t(random.below(4));
  params.num_top = one_of({-1, -1, 0, 1, 5, 20}, random);
  if (random.below(3) == 0) {
    for (int token : distinct_tokens(1 + random.below(300), vocab + 3, random)) {
      wishes.biases.push_back({token, 3 * random.normal()});
    }
  }
  if (random.below(3) == 0) wishes.stop_tokens = distinct_tokens(1 + random.below(4), vocab + 3, random);
  params.min_tokens = random.below(6);
  if (random.below(3) == 0) {
    params.repetition_penalty = one_of({0.7f, 1.0f, 1.3f}, random);
    params.presence_penalty = one_of({-1.0f, 0.0f, 0.7f}, random);
    params.frequency_penalty = one_of({-0.2f, 0.0f, 0.3f}, random);
    for (int token : distinct_tokens(random.below(400), vocab + 3, random)) {
      wishes.history.push_back(uint32_t(token) | uint32_t(random.below(4) * random.below(1366)) << PW_SEEN_TOKEN_BITS);
    }
    params.history_len = int(wishes.history.size());
  }
  params.num_biases = int(wishes.biases.size()), params.num_stop_tokens = int(wishes.stop_tokens.size());
  return wishes;
}

Row row_of(std::vector<float> logits, Wishes wishes, int output_position) {
  return {std::move(logits), std::move(wishes), {3, 0, output_position, -1}};
}

// Everything that jobs can ask for, by chance; some are padding, some scores, some faulty.
std::vector<Row> random_rows(int num, int vocab, Random& random) {
  std::vector<Row> rows;
  for (int i = 0; i < num; ++i) {
    const Pattern pattern = Pattern(random.below(int(Pattern::kNum)));
    Row row = row_of(logits_of(pattern, vocab, random), random_wishes(vocab, random), random.below(8));
    if (random.below(8) == 0) row.job.token_index = -1;
    if (random.below(5) == 0) row.job.argument = random.below(vocab), row.job.num_top = one_of({0, 1, 5, 20}, random);
    if (random.below(12) == 0) row.logits[random.below(vocab)] = one_of({NAN, INFINITY, -INFINITY}, random);
    rows.push_back(std::move(row));
  }
  return rows;
}

void check_rows(const char* name, const std::vector<Row>& rows, const Plan* plan, bool are_sums_exact = false) {
  Batch batch(rows, 512);
  batch.are_sums_exact = are_sums_exact;
  batch.run(plan);
  batch.check(name);
}

// Equal weights and shares of few bits: sums are exact, so the cut is where the definition has it, whatever the order of sums.
// Many draws for each, so that one token too many or too few shows.
void check_borders(int vocab, const Plan* plan) {
  std::vector<Row> rows;
  Wishes wishes = lab::greedy_wishes();
  wishes.params.temperature = 0.7f;
  for (float top_p : {0.5f, 0.25f, 0.0625f, 0.75f, 1.0f}) {
    for (int top_k : {0, 1, vocab / 2, vocab - 1}) {
      for (int draw = 0; draw < 4; ++draw) {
        wishes.params.top_p = top_p, wishes.params.top_k = top_k, wishes.params.seed = uint64_t(rows.size());
        rows.push_back(row_of(std::vector<float>(vocab, -2.5f), wishes, draw));
      }
    }
  }
  check_rows("equal weights, shares at a border", rows, plan, true);
}

// Almost equal weights, so that every draw depends on how many tokens were kept.
void check_counts(int vocab, const Plan* plan, Random& random) {
  std::vector<Row> rows;
  Wishes wishes = lab::greedy_wishes();
  wishes.params.temperature = 100.0f;
  for (Pattern pattern : {Pattern::kNormal, Pattern::kCoarse, Pattern::kHalf}) {
    const std::vector<float> logits = logits_of(pattern, vocab, random);
    for (int top_k : {2, 3, 7, 40, 511, 512, 513, 700}) {
      wishes.params.top_k = top_k, wishes.params.seed = random.next();
      for (int draw = 0; draw < 3; ++draw) rows.push_back(row_of(logits, wishes, draw));
    }
  }
  check_rows("top-k, flat", rows, plan);
}

void check_masks(const Plan* plan) {
  std::vector<Row> rows;
  const int vocab = 200;
  Random random(77);
  for (int allowed : {-1, 0, 3, 199}) {
    for (float temperature : {0.0f, 1.0f}) {
      Wishes wishes = lab::greedy_wishes();
      wishes.params.temperature = temperature, wishes.params.min_tokens = 1, wishes.params.num_top = 2;
      for (int token = 0; token < vocab; ++token) {
        if (token == allowed) continue;
        if (token % 2 == 0) wishes.biases.push_back({token, -INFINITY});
        if (token % 2 == 1) wishes.stop_tokens.push_back(token);
      }
      wishes.params.num_biases = int(wishes.biases.size()), wishes.params.num_stop_tokens = int(wishes.stop_tokens.size());
      wishes.history = {PwSeenToken(5), PwSeenToken(6) | 0xfffu << PW_SEEN_TOKEN_BITS}, wishes.params.history_len = 2;
      rows.push_back(row_of(logits_of(Pattern::kNormal, vocab, random), wishes, 0));
    }
  }
  check_rows("masks: none or one token left", rows, plan);
}

void check_all(const char* title, const Plan* plan_like, bool is_small) {
  std::printf("%s\n", title);
  Random random(31);
  const auto plan_for = [&](int vocab) {
    return plan_like == nullptr ? Plan{} : pw::sampling::plan_of(vocab, plan_like->team, plan_like->stages);
  };
  const auto with_plan = [&](int vocab, auto&& check) {
    const Plan plan = plan_for(vocab);
    check(plan_like == nullptr ? nullptr : &plan);
  };
  struct Shape {
    int rows;
    int vocab;
  };
  std::vector<Shape> shapes = {{40, 1}, {40, 2}, {40, 4}, {60, 5}, {60, 128}, {60, 1000}, {40, 1001}, {12, 4100}, {3, 49152}};
  if (!is_small) shapes.insert(shapes.end(), {{1024, 1000}, {1, 128256}, {48, 49152}, {32, 128256}, {3, 262145}});
  for (Shape shape : shapes) {
    const std::vector<Row> rows = random_rows(shape.rows, shape.vocab, random);
    with_plan(shape.vocab, [&](const Plan* plan) { check_rows("random", rows, plan); });
  }
  for (int vocab : {16, 1024, 4096}) with_plan(vocab, [&](const Plan* plan) { check_borders(vocab, plan); });
  if (!is_small) with_plan(49152, [&](const Plan* plan) { check_borders(49152, plan); });
  for (int vocab : {1003, 8192}) with_plan(vocab, [&](const Plan* plan) { check_counts(vocab, plan, random); });
  with_plan(200, [&](const Plan* plan) { check_masks(plan); });
}

// What the slots of a timed batch all want.
struct Timed {
  const char* name;
  PwSlotParams params;
  int score_top = -1;
};

std::vector<Timed> timed_wishes() {
  const PwSlotParams greedy = lab::greedy_wishes().params;
  std::vector<Timed> all = {{"greedy", greedy}, {"temperature", greedy}, {"top-k 50", greedy}, {"top-p 0.9", greedy},
                            {"top-k, top-p, min-p", greedy}, {"penalties", greedy}, {"greedy, 5 logprobs", greedy},
                            {"score", greedy, 0}};
  for (int i : {1, 2, 3, 4}) all[i].params.temperature = 0.8f;
  all[2].params.top_k = all[4].params.top_k = 50;
  all[3].params.top_p = all[4].params.top_p = 0.9f;
  all[4].params.min_p = 0.05f;
  all[5].params.repetition_penalty = 1.1f, all[5].params.history_len = 2000;
  all[6].params.num_top = 5;
  return all;
}

// Logits of `max_rows` rows, and slots that all want the same.
class Bench {
 public:
  static constexpr int kMaxRows = 256, kMaxVocab = 128256, kHistory = 2000, kMaxTop = 20;

  Bench() : logits_(size_t(kMaxRows) * kMaxVocab), scratch_(logits_.len()) {
    Random random(3);
    // As of a model: most are small, a few of each thousand are not.
    std::vector<float> logits(logits_.len());
    for (float& logit : logits) logit = 2 * random.normal() + (random.below(1000) == 0 ? 6.0f : 0.0f);
    logits_.write(logits);
    std::vector<PwSeenToken> history(size_t(kMaxRows) * kHistory);
    for (size_t i = 0; i < history.size(); ++i) history[i] = PwSeenToken(i % kHistory * 24) | 1u << PW_SEEN_TOKEN_BITS;
    history_ = Device<PwSeenToken>(history);
    lens_ = Device<int32_t>(std::vector<int32_t>(kMaxRows, kHistory));
  }

  // Microseconds of one call.
  double time(const Timed& timed, int rows, int vocab, const Plan& plan) {
    std::vector<PwSlotParams> params(rows, timed.params);
    std::vector<PwLogitJob> jobs;
    for (int i = 0; i < rows; ++i) {
      params[i].seed = uint64_t(i);
      jobs.push_back({i, i, timed.score_top < 0 ? 7 : 1000 + i, timed.score_top});
    }
    params_.write(params), jobs_.write(jobs);
    PwSample op = {logits_.get(), jobs_.get(), {}, results_.get(), top_.get(), kMaxTop, rows, scratch_.get()};
    op.state = {params_.get(), biases_.get(), stops_.get(), history_.get(), lens_.get(), last_.get(), kHistory, vocab};
    return lab::median_us(rows < 100 ? 50 : 10, [&](cudaStream_t stream, int) {
      LAB_OK(launch(op, plan, reinterpret_cast<PwStream>(stream)));
    });
  }

 private:
  Device<float> logits_, scratch_;
  Device<PwSeenToken> history_;
  Device<int32_t> lens_, last_{kMaxRows}, stops_{size_t(kMaxRows) * PW_MAX_STOP_TOKENS};
  Device<PwSlotParams> params_{kMaxRows};
  Device<PwLogitJob> jobs_{kMaxRows};
  Device<PwLogitBias> biases_{size_t(kMaxRows) * PW_MAX_LOGIT_BIASES};
  Device<PwSampleResult> results_{kMaxRows};
  Device<PwTopToken> top_{size_t(kMaxRows) * kMaxTop};
};

void time_all() {
  const double rate = lab::copy_rate_tbps();
  std::printf("copy rate %.2f TB/s; up to 64 rows lie in the L2 cache, as after the product that made them\n", rate);
  const int row_counts[] = {1, 8, 64, 256};
  Bench bench;
  for (int vocab : {49152, 128256}) {
    std::printf("vocabulary %d; us for rows          ", vocab);
    for (int rows : row_counts) std::printf("%9d", rows);
    std::printf("\nto read the logits                       ");
    for (int rows : row_counts) std::printf("%9.2f", double(rows) * vocab * 4 / rate * 1e-6);
    // 0: as the library plans
    for (int team : {0, 1, 2, 4, 8}) {
      const auto plan_for = [&](int rows) {
        return team == 0 ? pw::sampling::plan_of(vocab, rows) : pw::sampling::plan_of(vocab, team, pw::sampling::kMaxStages);
      };
      const Plan plan = plan_for(1);
      if (plan.stages == 0) continue;
      const char* name = team == 0 ? "library" : "blocks";
      std::printf("\n%s: %d, part %d, stages %d, teams %d", name, plan.team, plan.part_len, plan.stages, plan.teams);
      for (const Timed& timed : timed_wishes()) {
        std::printf("\n%-8s %d %-30s", name, team, timed.name);
        for (int rows : row_counts) std::printf("%9.2f", bench.time(timed, rows, vocab, plan_for(rows)));
      }
    }
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool is_check = argc > 1 && std::strcmp(argv[1], "--check") == 0;
  const Plan in_place = {8, 0, 0, 0}, one_block = {1, 0, 0, 0}, one_stage = {4, 0, 1, 0}, eight = {8, 0, 4, 0};
  check_all("as the library plans", nullptr, is_check);
  check_all("one block a row, in place", &one_block, is_check);
  check_all("eight blocks", &eight, is_check);
  if (!is_check) check_all("eight blocks, in place", &in_place, true);
  if (!is_check) check_all("four blocks, one stage", &one_stage, true);
  if (!is_check) time_all();
  std::printf("%d failures\n", lab::failures());
  return lab::failures() > 0;
}
