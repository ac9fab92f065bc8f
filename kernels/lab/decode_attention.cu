// Decode attention: against float64, then timed beside the bytes that it must read. `--check`: only the former.
#include "decode_attention/launch.cuh"
#include "decode_attention/plain.cuh"
#include "decode_attention_bench.cuh"

using namespace pw::decode_attention;
using Bf16 = __nv_bfloat16;

namespace {

using Kernel = std::function<PwStatus(const PwDecodeAttention&, PwStream)>;

struct Run {
  std::vector<uint8_t> out;
  bool counters_are_zero;
};

// A problem on the device.
class Loaded {
 public:
  explicit Loaded(const lab::Problem& problem)
      : problem_(problem), q_(problem.q), pool_(problem.pool), tables_(problem.tables) {}

  Run run(const Kernel& kernel, lab::Plan plan, int times = 1) const {
    const lab::Problem& p = problem_;
    const int num_items = int(plan.items.size());
    PwDecodeItem nowhere;
    std::memset(&nowhere, 0x7f, sizeof nowhere);
    plan.items.insert(plan.items.end(), 5, nowhere);
    lab::Device<PwDecodeItem> items(plan.items);
    lab::Device<int32_t> count(std::vector<int32_t>{num_items});
    const size_t partials = size_t(plan.partials) * p.shape.heads;
    lab::Device<float> partial_out(partials * p.shape.dim), partial_stats(partials * 2);
    lab::Device<int32_t> counters(size_t(plan.counters) * p.shape.kv_heads);
    // One row more than there are: it must stay as it is.
    lab::Device<uint8_t> out(size_t(p.tokens() + 1) * p.shape.heads * p.shape.dim * lab::element_bytes(p.element));
    lab::Device<int32_t> queue(1);
    counters.zero(), queue.zero();
    PwDecodeAttention op = {};
    op.attention.q = q_.get();
    op.attention.q_stride = p.q_stride;
    op.attention.kv = {pool_.get(),    p.block_stride(), p.layer_offset(), p.num_blocks, p.shape.block,
                       p.shape.kv_heads, p.shape.dim,      p.kv_element};
    op.attention.tables = tables_.get();
    op.attention.max_blocks_per_slot = p.blocks_per_slot;
    op.attention.out = out.get();
    op.attention.num_heads = p.shape.heads;
    op.attention.scale = p.scale();
    op.attention.sliding_window = p.shape.window;
    op.attention.element = p.element;
    op.items = items.get();
    op.num_items = count.get();
    op.max_items = int(plan.items.size());
    op.partial_out = partial_out.get();
    op.partial_stats = partial_stats.get();
    op.counters = counters.get();
    op.queue = queue.get();
    for (int i = 0; i < times; ++i) {
      out.poison(), partial_out.poison(), partial_stats.poison();
      LAB_OK(kernel(op, nullptr));
      LAB_CUDA(cudaDeviceSynchronize());
    }
    auto after = counters.read();
    after.push_back(queue.read()[0]);
    return {out.read(), std::all_of(after.begin(), after.end(), [](int32_t c) { return c == 0; })};
  }

  size_t row_bytes() const {
    return size_t(problem_.shape.heads) * problem_.shape.dim * lab::element_bytes(problem_.element);
  }

 private:
  const lab::Problem& problem_;
  lab::Device<uint8_t> q_, pool_;
  lab::Device<int32_t> tables_;
};

double error_of(const lab::Problem& p, const Run& run) {
  std::vector<double> got;
  const auto expected = p.answer();
  for (size_t i = 0; i < expected.size(); ++i) got.push_back(lab::get(run.out, i, p.element));
  return lab::relative_error(got, expected);
}

double allowed(PwElement element) { return element == PW_F32 ? 1e-5 : element == PW_F16 ? 8e-4 : 6e-3; }

// Against float64; then alone, reversed and repeated, which must give the same bits.
void check(const char* name, const Kernel& kernel, const lab::Problem& p, int split_tokens) {
  const Loaded loaded(p);
  const size_t row = loaded.row_bytes();
  const std::string what = std::string(name) + " " + p.name() + ", splits of " + std::to_string(split_tokens);
  const lab::Plan plan = p.plan(split_tokens);
  const Run whole = loaded.run(kernel, plan);
  lab::check(what.c_str(), error_of(p, whole), allowed(p.element));

  int wrong = !whole.counters_are_zero;
  for (size_t i = p.tokens() * row; i < whole.out.size(); ++i) wrong += whole.out[i] != 0xff;
  lab::Plan reversed = plan;
  std::reverse(reversed.items.begin(), reversed.items.end());
  wrong += loaded.run(kernel, reversed, 2).out != whole.out;
  for (int t = 0; t < p.tokens(); ++t) {
    const Run alone = loaded.run(kernel, p.plan(split_tokens, t));
    for (int other = 0; other < p.tokens(); ++other) {
      for (size_t i = other * row; i < (other + 1) * row; ++i) {
        wrong += alone.out[i] != (other == t ? whole.out[i] : 0xff);
      }
    }
  }
  if (wrong > 0) lab::check((what + ": bits").c_str(), wrong, 0);
}

// A NaN in one token's keys or values reaches all heads that read it, and no other token.
void check_nan(const char* name, const Kernel& kernel, bool in_values) {
  lab::Problem p({8, 2, 128, 16, 0}, PW_BF16, PW_BF16, {700, 300, 20}, 5);
  const Run clean = Loaded(p).run(kernel, p.plan(0));
  const int token = 0, head = 1, group = 4;
  lab::put(p.pool, (in_values ? p.value_at(token, 299, head) : p.key_at(token, 299, head)) + 17, NAN, PW_BF16);
  const Run run = Loaded(p).run(kernel, p.plan(0));
  int wrong = 0;
  for (int t = 0; t < p.tokens(); ++t) {
    for (int h = 0; h < 8; ++h) {
      for (int d = 0; d < 128; ++d) {
        const size_t i = (size_t(t) * 8 + h) * 128 + d;
        const bool is_reached = t == token && h / group == head && (!in_values || d == 17);
        const float got = lab::get(run.out, i, PW_BF16);
        wrong += is_reached ? !std::isnan(got) : got != lab::get(clean.out, i, PW_BF16);
      }
    }
  }
  lab::check((std::string(name) + (in_values ? " a NaN among values" : " a NaN among keys")).c_str(), wrong, 0);
}

// Shapes as {heads, key-value heads, head size, block size, window}.
void check_all() {
  const Kernel library = [](const PwDecodeAttention& op, PwStream stream) { return pw_decode_attention(&op, stream); };
  const lab::AttentionShape fast[] = {
      {9, 3, 64, 16, 0},   {4, 4, 64, 16, 0},    {8, 1, 128, 16, 0}, {32, 2, 128, 32, 0},
      {2, 1, 64, 256, 0},  {9, 3, 64, 16, 1},    {4, 2, 64, 16, 20}, {2, 1, 128, 64, 300},
      {32, 8, 128, 16, 0}, {14, 2, 128, 16, 77}, {40, 2, 64, 16, 0}, {34, 2, 128, 16, 0},
  };
  const lab::AttentionShape plain[] = {
      {6, 2, 80, 16, 0},  {3, 1, 96, 1, 0},   {2, 2, 64, 3, 0},   {4, 1, 64, 7, 0},
      {14, 2, 6, 24, 0},  {4, 1, 80, 5, 130}, {2, 1, 128, 8, 0},
  };
  const std::vector<int> contexts = {1, 17, 16, 131, 300, 47, 256};
  uint64_t seed = 1;
  for (const auto& shape : fast) {
    const PwElement element = seed % 3 == 0 ? PW_F16 : PW_BF16;
    const lab::Problem problem(shape, element, element, contexts, seed++);
    check("library", library, problem, 0);
    check("library", library, problem, 48);
  }
  for (const auto& shape : plain) {
    const PwElement element = seed % 3 == 0 ? PW_F16 : PW_BF16;
    check("library", library, lab::Problem(shape, element, element, {1, 17, 90, 33}, seed++), 37);
  }
  check("library", library, lab::Problem({4, 2, 64, 16, 0}, PW_F32, PW_F32, {1, 17, 90}, seed++), 0);
  check("library", library, lab::Problem({4, 2, 64, 16, 0}, PW_F32, PW_BF16, {1, 17, 90}, seed++), 37);
  check("library", library, lab::Problem({4, 1, 128, 16, 0}, PW_BF16, PW_BF16, {5000}, seed++), 0);
  // More units than blocks fit on a card, so that blocks ask for more.
  const std::vector<int> long_contexts = {1000, 777};
  check("library", library, lab::Problem({16, 16, 64, 16, 0}, PW_BF16, PW_BF16, long_contexts, seed++), 16);
  check("library", library, lab::Problem({8, 8, 128, 16, 0}, PW_F16, PW_F16, long_contexts, seed++), 16);
  // As on cards with less shared memory.
  const Kernel narrow = launch_shape<Bf16, 128, 1, Narrow>;
  check("narrow", narrow, lab::Problem({8, 8, 128, 16, 0}, PW_BF16, PW_BF16, long_contexts, seed++), 16);
  check_nan("library", library, false);
  check_nan("library", library, true);
  const lab::Problem problem({4, 2, 64, 16, 0}, PW_BF16, PW_BF16, {40}, seed);
  const Run idle = Loaded(problem).run(library, lab::Plan());
  lab::check("library no items", std::count_if(idle.out.begin(), idle.out.end(), [](uint8_t b) { return b != 0xff; }), 0);
}

struct Version {
  const char* name;
  Kernel kernel;
  bool starts_early = true;
  int most_splits = 0;
  int split_tokens = 0;
};

void time_all(const lab::DecodeBench& bench, int heads, int kv_heads, int dim, const std::vector<Version>& versions) {
  const std::pair<int, int> sizes[] = {{1, 256},   {1, 1024},  {8, 1024},  {64, 256},  {256, 256},
                                       {64, 1024}, {64, 4096}, {256, 2048}, {8, 8192}};
  std::printf("%2d/%d x %-3d               ", heads, kv_heads, dim);
  for (const auto& [tokens, context] : sizes) std::printf(" %4dx%-5d", tokens, context);
  std::printf("  us, then TB/s\n");
  for (const Version& version : versions) {
    std::vector<double> rates;
    std::printf("%-24s", version.name);
    pw::starts_early() = version.starts_early;
    for (const auto& [tokens, context] : sizes) {
      const lab::DecodeShape shape = {heads, kv_heads, dim, tokens, context};
      const double us = bench.time_us(version.kernel, shape, version.most_splits, version.split_tokens);
      std::printf(" %10.1f", us);
      rates.push_back(shape.bytes() / us * 1e-6);
    }
    pw::starts_early() = true;
    std::printf("\n%-24s", "");
    for (double rate : rates) std::printf(" %10.2f", rate);
    std::printf("\n");
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  check_all();
  std::printf("%d failures\n", lab::failures());
  if (argc > 1 && std::strcmp(argv[1], "--check") == 0) return lab::failures() > 0;
  const Kernel library = [](const PwDecodeAttention& op, PwStream stream) { return pw_decode_attention(&op, stream); };
  std::printf("copy rate %.2f TB/s\n", lab::copy_rate_tbps());
  const lab::DecodeBench bench;
  std::printf("read rate %.2f TB/s; %d layers\n", bench.read_rate_tbps(), bench.layers());
  const std::vector<Version> versions = {
      {"library", library},
      {"no early start", library, false},
      {"launched for 16 splits", library, true, lab::kMaxSplits},
      {"not split", library, true, 0, INT32_MAX / 2},
      {"plain kernel", launch_plain<Bf16, Bf16>},
  };
  time_all(bench, 32, 8, 128, versions);
  time_all(bench, 9, 3, 64, versions);
  return lab::failures() > 0;
}
