// Lab of decode attention: checks every kernel against float64, then times them.
#include "decode_attention/launcher.cuh"
#include "decode_attention_problem.cuh"

using namespace pw::decode_attention;
using Bf16 = __nv_bfloat16;

namespace {

using Kernel = std::function<PwStatus(const PwDecodeAttention&, PwStream)>;

// ---- checks

struct Run {
  std::vector<uint8_t> out;
  bool counters_are_zero;
};

// A problem on the device.
class Loaded {
 public:
  explicit Loaded(const lab::Problem& problem) : problem_(problem), q_(problem.q), pool_(problem.pool), tables_(problem.tables) {}

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

  size_t row_bytes() const { return size_t(problem_.shape.heads) * problem_.shape.dim * lab::element_bytes(problem_.element); }

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

void check_all(const std::vector<std::pair<const char*, Kernel>>& candidates) {
  const Kernel library = [](const PwDecodeAttention& op, PwStream stream) { return pw_decode_attention(&op, stream); };
  const lab::AttentionShape fast[] = {
      {9, 3, 64, 16, 0},   {4, 4, 64, 16, 0},    {8, 1, 128, 16, 0},  {32, 2, 128, 32, 0},  {2, 1, 64, 256, 0}, {9, 3, 64, 16, 1},
      {4, 2, 64, 16, 20},  {2, 1, 128, 64, 300}, {32, 8, 128, 16, 0}, {14, 2, 128, 16, 77}, {40, 2, 64, 16, 0}, {34, 2, 128, 16, 0},
  };
  const lab::AttentionShape plain[] = {
      {6, 2, 80, 16, 0}, {3, 1, 96, 1, 0}, {2, 2, 64, 3, 0}, {4, 1, 64, 7, 0}, {14, 2, 6, 24, 0}, {4, 1, 80, 5, 130}, {2, 1, 128, 8, 0},
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
  // More units than blocks fit on the card.
  check("library", library, lab::Problem({16, 16, 64, 16, 0}, PW_BF16, PW_BF16, {1000, 777}, seed++), 16);
  check("library", library, lab::Problem({8, 8, 128, 16, 0}, PW_F16, PW_F16, {1000, 777}, seed++), 16);
  for (int heads : {8, 4, 2}) check("library", library, lab::Problem({heads, 1, 128, 16, 0}, PW_BF16, PW_BF16, {600}, seed++), 32);
  check_nan("library", library, false);
  check_nan("library", library, true);
  for (const auto& [name, kernel] : candidates) {
    check(name, kernel, lab::Problem({32, 8, 128, 16, 0}, PW_BF16, PW_BF16, contexts, seed++), 0);
    check(name, kernel, lab::Problem({8, 2, 128, 64, 100}, PW_BF16, PW_BF16, contexts, seed++), 48);
    check(name, kernel, lab::Problem({4, 1, 128, 16, 0}, PW_BF16, PW_BF16, {3000}, seed++), 0);
    check(name, kernel, lab::Problem({8, 8, 128, 16, 0}, PW_BF16, PW_BF16, {1000, 777}, seed++), 16);
    check_nan(name, kernel, true);
  }
  const lab::Problem problem({4, 2, 64, 16, 0}, PW_BF16, PW_BF16, {40}, seed);
  lab::Plan none;
  const Run idle = Loaded(problem).run(library, none);
  lab::check("library no items", std::count_if(idle.out.begin(), idle.out.end(), [](uint8_t b) { return b != 0xff; }), 0);
}

// ---- timing

__global__ void fill(uint4* to, size_t len) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < len; i += size_t(gridDim.x) * blockDim.x) {
    uint32_t words[4];
    for (int w = 0; w < 4; ++w) {
      uint32_t z = uint32_t(i) * 4 + w + uint32_t(i >> 30) * 0x9e3779b9u;
      z = (z ^ z >> 16) * 0x7feb352du;
      z = (z ^ z >> 15) * 0x846ca68bu;
      z ^= z >> 16;
      // Either sign, from 1/2 to 2 in bfloat16.
      words[w] = (z & 0x80ff80ffu) | 0x3f003f00u;
    }
    to[i] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

__global__ void __launch_bounds__(512) sum(const uint4* from, size_t len, uint32_t* to) {
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

enum class Layout { kEngine, kDense };

// A pool as the engine has it, most of the card, with blocks in random order.
class Bench {
 public:
  Bench() {
    size_t free_bytes, total;
    LAB_CUDA(cudaMemGetInfo(&free_bytes, &total));
    layers_ = 32;
    while (size_t(layers_) * kBlocks * kBlockBytes + (3ull << 30) > free_bytes) layers_ /= 2;
    pool_ = lab::Device<uint8_t>(size_t(layers_) * kBlocks * kBlockBytes);
    fill<<<2048, 256>>>(reinterpret_cast<uint4*>(pool_.get()), pool_.len() / 16);
    q_ = lab::Device<uint8_t>(256 * 6144 * 2);
    fill<<<256, 256>>>(reinterpret_cast<uint4*>(q_.get()), q_.len() / 16);
    LAB_CUDA(cudaDeviceSynchronize());
    std::vector<int32_t> blocks(kBlocks);
    for (int i = 0; i < kBlocks; ++i) blocks[i] = i;
    lab::Random random(7);
    for (int i = kBlocks; i > 1; --i) std::swap(blocks[i - 1], blocks[random.below(i)]);
    blocks_ = lab::Device<int32_t>(blocks);
    out_ = lab::Device<uint8_t>(256 * 4096 * 2);
    partial_out_ = lab::Device<float>(size_t(4096) * 32 * 128);
    partial_stats_ = lab::Device<float>(size_t(4096) * 32 * 2);
    counters_ = lab::Device<int32_t>(4096 * 32);
    queue_ = lab::Device<int32_t>(1);
    counters_.zero(), queue_.zero();
  }

  int layers() const { return layers_; }

  double read_rate() const {
    const size_t bytes = size_t(4) << 30;
    const double us = lab::median_us(2, [&](cudaStream_t stream, int i) {
      sum<<<132 * 4, 512, 0, stream>>>(reinterpret_cast<const uint4*>(pool_.get() + i * bytes), bytes / 16,
                                       reinterpret_cast<uint32_t*>(out_.get()));
    });
    return double(bytes) / us * 1e-6;
  }

  struct Shape {
    int tokens, context, heads = 32, kv_heads = 8, dim = 128;
    double bytes() const { return double(tokens) * context * kv_heads * dim * 4; }
  };

  // Microseconds of one layer.
  double time(const Kernel& kernel, const Shape& s, int split_tokens = 0, Layout layout = Layout::kEngine, int max_items = 0) {
    const int block_elements = 2 * s.kv_heads * 16 * s.dim;
    const int per_slot = (s.context + 15) / 16;
    const int sets = std::max(1, std::min(24, int(2e8 / (s.bytes() * layers_))));
    std::vector<PwDecodeItem> items;
    int num_items = 0;
    lab::Plan last;
    for (int set = 0; set < sets; ++set) {
      lab::Plan plan;
      for (int t = 0; t < s.tokens; ++t) {
        plan.add(t, set * s.tokens + t, 0, s.context, split_tokens > 0 ? split_tokens : pw_decode_split_tokens(s.context));
      }
      items.insert(items.end(), plan.items.begin(), plan.items.end());
      num_items = int(plan.items.size());
    }
    lab::Device<PwDecodeItem> device_items(items);
    lab::Device<int32_t> count(std::vector<int32_t>{num_items});
    const int calls = std::max(std::min(layers_, 8), std::min(layers_ * sets, int(1.5e9 / s.bytes())));
    return lab::median_us(
        calls,
        [&](cudaStream_t stream, int i) {
          const int layer = i % layers_;
          PwDecodeAttention op = {};
          op.attention.q = q_.get();
          op.attention.q_stride = 6144;
          op.attention.kv = {pool_.get(), int64_t(block_elements) * layers_, int64_t(block_elements) * layer, kBlocks, 16,
                             s.kv_heads,  s.dim,                             PW_BF16};
          if (layout == Layout::kDense) {
            op.attention.kv.pool = pool_.get() + size_t(layer) * kBlocks * block_elements * 2;
            op.attention.kv.block_stride = block_elements;
            op.attention.kv.layer_offset = 0;
          }
          op.attention.tables = blocks_.get();
          op.attention.max_blocks_per_slot = per_slot;
          op.attention.out = out_.get();
          op.attention.num_heads = s.heads;
          op.attention.scale = 0.08f;
          op.attention.element = PW_BF16;
          op.items = device_items.get() + i / layers_ % sets * num_items;
          op.num_items = count.get();
          op.max_items = std::max(num_items, max_items);
          op.partial_out = partial_out_.get();
          op.partial_stats = partial_stats_.get();
          op.counters = counters_.get();
          op.queue = queue_.get();
          LAB_OK(kernel(op, stream));
        },
        7);
  }

 private:
  static constexpr int kBlocks = 32768;
  static constexpr size_t kBlockBytes = 2 * 8 * 16 * 128 * 2;
  int layers_;
  lab::Device<uint8_t> pool_, q_, out_;
  lab::Device<int32_t> blocks_, counters_, queue_;
  lab::Device<float> partial_out_, partial_stats_;
};

template <int kDim, class S>
Kernel candidate(int ahead) {
  return [=](const PwDecodeAttention& op, PwStream stream) {
    return launch_decode<Bf16, kDim, 1, S>(op, stream, ahead);
  };
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::pair<const char*, Kernel>> candidates = {
      {"4x2x3 ahead 0", candidate<128, Shape<4, 2, 3>>(0)}, {"4x2x3 ahead 2", candidate<128, Shape<4, 2, 3>>(2)},
      {"4x2x3 ahead 4", candidate<128, Shape<4, 2, 3>>(4)}, {"4x2x2 ahead 0", candidate<128, Shape<4, 2, 2>>(0)},
      {"4x2x2 ahead 4", candidate<128, Shape<4, 2, 2>>(4)}, {"4x3x2 ahead 0", candidate<128, Shape<4, 3, 2>>(0)},
      {"4x3x2 ahead 4", candidate<128, Shape<4, 3, 2>>(4)}, {"8x1x3 ahead 0", candidate<128, Shape<8, 1, 3>>(0)},
      {"6x2x2 ahead 0", candidate<128, Shape<6, 2, 2>>(0)}, {"8x2x1 ahead 0", candidate<128, Shape<8, 2, 1>>(0)},
      {"8x2x1 ahead 4", candidate<128, Shape<8, 2, 1>>(4)},
  };
  const std::vector<std::pair<const char*, Kernel>> small = {
      {"8x2x3 ahead 0", candidate<64, Shape<8, 2, 3>>(0)}, {"8x2x3 ahead 2", candidate<64, Shape<8, 2, 3>>(2)},
      {"8x2x2 ahead 0", candidate<64, Shape<8, 2, 2>>(0)}, {"8x3x2 ahead 0", candidate<64, Shape<8, 3, 2>>(0)},
      {"8x3x2 ahead 2", candidate<64, Shape<8, 3, 2>>(2)}, {"8x4x1 ahead 0", candidate<64, Shape<8, 4, 1>>(0)},
      {"4x4x3 ahead 0", candidate<64, Shape<4, 4, 3>>(0)}, {"4x3x4 ahead 0", candidate<64, Shape<4, 3, 4>>(0)},
      {"4x2x6 ahead 0", candidate<64, Shape<4, 2, 6>>(0)}, {"4x4x2 ahead 0", candidate<64, Shape<4, 4, 2>>(0)},
  };
  check_all(candidates);
  for (const auto& [name, kernel] : small) {
    check(name, kernel, lab::Problem({9, 3, 64, 16, 0}, PW_BF16, PW_BF16, {1, 16, 131, 300}, 77), 0);
  }
  if (argc > 1 && std::strcmp(argv[1], "--check") == 0) return lab::failures() > 0;

  std::printf("copy %.2f TB/s\n", lab::copy_rate_tbps());
  Bench bench;
  std::printf("read %.2f TB/s, %d layers\n", bench.read_rate(), bench.layers());
  const std::vector<Bench::Shape> shapes = {{1, 256},   {1, 1024},  {8, 1024},  {64, 256},  {256, 256},
                                            {64, 1024}, {64, 4096}, {256, 2048}, {8, 8192}};
  const std::vector<Bench::Shape> smol = {{1, 256, 9, 3, 64},  {1, 1024, 9, 3, 64},   {8, 1024, 9, 3, 64},
                                          {64, 256, 9, 3, 64}, {256, 256, 9, 3, 64}, {64, 1024, 9, 3, 64},
                                          {256, 1024, 9, 3, 64}, {256, 2048, 9, 3, 64}, {64, 4096, 9, 3, 64}};
  const auto header = [&](const char* what, const std::vector<Bench::Shape>& shapes) {
    std::printf("%-28s", what);
    for (const auto& s : shapes) std::printf(" %4dx%-5d", s.tokens, s.context);
    std::printf("  (us, then TB/s)\n");
  };
  const auto row = [&](const char* name, const Kernel& kernel, const std::vector<Bench::Shape>& shapes, int split = 0,
                       int most_splits = 0) {
    std::vector<double> times;
    for (const auto& s : shapes) {
      const bool fits = split == 0 || s.context > split || split == 1 << 20;
      times.push_back(fits ? bench.time(kernel, s, split, Layout::kEngine, s.tokens * most_splits) : NAN);
    }
    std::printf("%-28s", name);
    for (double us : times) std::printf(" %10.1f", us);
    std::printf("\n%-28s", "");
    for (size_t i = 0; i < times.size(); ++i) std::printf(" %10.2f", shapes[i].bytes() / times[i] * 1e-6);
    std::printf("\n");
    std::fflush(stdout);
  };
  header("library's splits", shapes);
  for (const auto& [name, kernel] : candidates) row(name, kernel, shapes);
  pw::starts_early() = false;
  header("no early start", shapes);
  for (int i : {0, 2}) row(candidates[i].first, candidates[i].second, shapes);
  pw::starts_early() = true;
  header("bound of 16 splits", shapes);
  for (int i : {0, 2}) row(candidates[i].first, candidates[i].second, shapes, 0, 16);
  header("splits of 512", shapes);
  for (int i : {0, 5}) row(candidates[i].first, candidates[i].second, shapes, 512);
  header("no splits", shapes);
  for (int i : {0}) row(candidates[i].first, candidates[i].second, shapes, 1 << 20);
  header("9/3 x 64", smol);
  for (const auto& [name, kernel] : small) row(name, kernel, smol);
  return lab::failures() > 0;
}
