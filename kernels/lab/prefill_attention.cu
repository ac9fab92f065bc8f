// Lab of prefill attention: checks every kernel against float64, then times them.
#include <chrono>

#include "common/launch.cuh"
#include "decode_attention_bench.cuh"
#include "prefill_attention/tile.cuh"
#include "prefill_attention_problem.cuh"

using namespace pw::prefill;
using lab::prefill::Problem;
using lab::prefill::Row;
using lab::prefill::Shape;

namespace {

using Kernel = PwStatus (*)(const PwPrefillAttention&, cudaStream_t);

struct Candidate {
  const char* name;
  Kernel kernel;
};

constexpr Candidate kCandidates[] = {{"warpgroup", launch_warpgroup}, {"warp", launch_warp}, {"plain", launch_plain}};

// ---- the same on the device

// Ends the program if the kernel does not end. PW_MAX_SPINS would do it too, but with a trap in its waits the compiler no
// longer lets the products of a warpgroup overlap, and another kernel would be checked than is used.
void wait_or_give_up() {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  cudaError_t error;
  while ((error = cudaStreamQuery(nullptr)) == cudaErrorNotReady) {
    if (std::chrono::steady_clock::now() > limit) {
      std::printf("FAIL the kernel does not end\n");
      std::fflush(stdout);
      std::_Exit(3);
    }
  }
  LAB_CUDA(error);
}

class Loaded {
 public:
  explicit Loaded(const Problem& problem)
      : problem_(problem), q_(problem.q), pool_(problem.pool), tables_(problem.tables), counters_(16),
        out_(size_t(problem.num_tokens() + 1) * problem.shape.heads * problem.shape.dim) {
    counters_.zero();
  }

  // `tiles` of at most `max_tile_tokens`, launched for a few more.
  PwPrefillAttention op(const lab::Device<PwPrefillTile>& tiles, const lab::Device<int32_t>& num_tiles,
                        int max_tile_tokens) const {
    const Problem& p = problem_;
    PwPrefillAttention op = {};
    op.attention.q = q_.get();
    op.attention.q_stride = p.q_stride();
    op.attention.kv = {pool_.get(),      p.block_stride(), Problem::kLayer * p.layer_elements(), p.num_blocks, p.shape.block,
                       p.shape.kv_heads, p.shape.dim,      p.element};
    op.attention.tables = tables_.get();
    op.attention.max_blocks_per_slot = p.blocks_per_slot;
    op.attention.out = out_.get();
    op.attention.num_heads = p.shape.heads;
    op.attention.scale = p.scale();
    op.attention.sliding_window = p.shape.window;
    op.attention.element = p.element;
    op.tiles = tiles.get();
    op.num_tiles = num_tiles.get();
    op.max_tiles = int(tiles.len()) + 3;
    op.max_tile_tokens = max_tile_tokens;
    op.counters = counters_.get();
    return op;
  }

  // Empty if the kernel does not take the shape.
  std::vector<uint16_t> run(Kernel kernel, const std::vector<PwPrefillTile>& tiles, int max_tile_tokens) {
    const lab::Device<PwPrefillTile> on_device(tiles);
    const lab::Device<int32_t> num_tiles(std::vector<int32_t>{int(tiles.size())});
    out_.poison();
    const PwStatus status = kernel(op(on_device, num_tiles, max_tile_tokens), nullptr);
    if (status == PW_UNSUPPORTED) return {};
    LAB_OK(status);
    wait_or_give_up();
    return out_.read();
  }

  bool counters_are_zero() const {
    const auto counters = counters_.read();
    return std::all_of(counters.begin(), counters.end(), [](int32_t c) { return c == 0; });
  }

 private:
  const Problem& problem_;
  lab::Device<uint16_t> q_, pool_;
  lab::Device<int32_t> tables_, counters_;
  lab::Device<uint16_t> out_;
};

// ---- checks

// Elements that differ from `whole` where row `only` writes, and from the poison elsewhere.
size_t wrong_bits(const Problem& p, const std::vector<uint16_t>& whole, const std::vector<uint16_t>& alone, int only) {
  const size_t row_elements = size_t(p.shape.heads) * p.shape.dim;
  size_t wrong = 0, i = 0;
  for (int slot = 0; slot < int(p.rows.size()); ++slot) {
    for (const size_t end = i + p.rows[slot].num_new * row_elements; i < end; ++i) {
      wrong += alone[i] != (slot == only ? whole[i] : 0xffff);
    }
  }
  return wrong;
}

// Against float64; then in other ways, which must give the same bits: reversed, row by row, a token at a time.
void check(const Problem& p) {
  const std::vector<double> expected = p.answer();
  const double allowed = p.element == PW_F16 ? 1e-3 : 8e-3;
  const int most = p.tile_tokens();
  Loaded loaded(p);
  for (const Candidate& candidate : kCandidates) {
    const std::string what = std::string(candidate.name) + " " + p.name();
    std::fflush(stdout);
    const std::vector<uint16_t> whole = loaded.run(candidate.kernel, p.tiles(), most);
    if (whole.empty()) {
      std::printf("not  %s: takes no such shape\n", what.c_str());
      continue;
    }
    std::vector<double> got;
    for (size_t i = 0; i < expected.size(); ++i) got.push_back(lab::from_bits(whole[i], p.element));
    lab::check(what.c_str(), lab::relative_error(got, expected), allowed);

    size_t wrong = !loaded.counters_are_zero();
    for (size_t i = expected.size(); i < whole.size(); ++i) wrong += whole[i] != 0xffff;
    auto reversed = p.tiles();
    std::reverse(reversed.begin(), reversed.end());
    wrong += loaded.run(candidate.kernel, reversed, most) != whole;
    for (int slot = 0; slot < std::min<int>(4, p.rows.size()); ++slot) {
      wrong += wrong_bits(p, whole, loaded.run(candidate.kernel, p.tiles(INT_MAX, slot), most), slot);
    }
    wrong += loaded.run(candidate.kernel, p.tiles(1), 1) != whole;
    wrong += loaded.run(candidate.kernel, {}, most) != std::vector<uint16_t>(whole.size(), 0xffff);
    wrong += !loaded.counters_are_zero();
    lab::check((what + ": bits").c_str(), double(wrong), 0);
    std::fflush(stdout);
  }
}

// However rows are cut into chunks, and by however many warps they are computed: the same bits.
void check_chunks(const Problem& p) {
  Loaded loaded(p);
  for (const Candidate& candidate : kCandidates) {
    const std::vector<uint16_t> whole = loaded.run(candidate.kernel, p.tiles(), p.tile_tokens());
    double wrong = 0;
    for (size_t i = 0; i < size_t(p.num_tokens()) * p.shape.heads * p.shape.dim; ++i) {
      wrong += !std::isfinite(lab::from_bits(whole[i], p.element));
    }
    for (const int chunk : {1, 7, 16, 33, 64, 100}) {
      const auto tiles = p.tiles(chunk);
      for (const int bound : {std::min(chunk, p.tile_tokens()), p.tile_tokens()}) {
        const std::vector<uint16_t> got = loaded.run(candidate.kernel, tiles, bound);
        for (size_t i = 0; i < whole.size(); ++i) wrong += got[i] != whole[i];
      }
    }
    lab::check((std::string(candidate.name) + " " + p.name() + ": chunks").c_str(), wrong, 0);
  }
  std::fflush(stdout);
}

void check_all_chunks() {
  uint64_t seed = 100;
  for (const int dim : {64, 128}) {
    for (const int group : {1, 3, 4, 8}) {
      for (const int block : {16, 32, 128}) {
        for (const int window : {0, 150}) {
          const Shape shape = {2 * group, 2, dim, block, window};
          check_chunks(Problem(shape, seed % 3 ? PW_BF16 : PW_F16, {{261, 261}, {405, 150}, {130, 2}}, seed));
          ++seed;
        }
      }
    }
  }
}

void check_all() {
  const std::vector<Row> mixed = {{1, 1}, {17, 17}, {131, 131}, {300, 45}, {129, 1}, {256, 128}, {77, 33}, {128, 127}, {16, 3}};
  const Shape shapes[] = {
      {32, 8, 128, 16, 0}, {8, 8, 128, 16, 0},  {4, 1, 64, 16, 0},   {9, 3, 64, 32, 0},   {4, 2, 128, 64, 0},  {4, 2, 64, 128, 0},
      {2, 1, 128, 256, 0}, {8, 2, 128, 16, 20}, {4, 1, 64, 64, 100}, {2, 1, 128, 256, 7}, {14, 2, 64, 16, 0},  {64, 1, 128, 16, 0},
      {6, 2, 80, 16, 0},   {4, 2, 64, 24, 0},   {4, 2, 128, 8, 33},  {16, 1, 64, 16, 1},
  };
  uint64_t seed = 1;
  for (const Shape& shape : shapes) check(Problem(shape, seed % 2 ? PW_BF16 : PW_F16, mixed, seed)), ++seed;
  check(Problem({32, 8, 128, 16, 0}, PW_F16, mixed, 90));
  check_chunks(Problem({4, 1, 128, 32, 0}, PW_BF16, {{261, 100}}, 93));
}

// More items than multiprocessors, and contexts of many tiles of keys.
void check_long() {
  check(Problem({16, 8, 128, 16, 0}, PW_BF16, {{700, 700}, {1500, 200}, {1025, 130}, {5, 5}}, 91));
  check(Problem({16, 8, 64, 16, 500}, PW_BF16, {{700, 700}, {1500, 200}, {1025, 130}, {5, 5}}, 92));
}

// ---- timings

double operations_of(const Problem& p) {
  double pairs = 0;
  for (const Row& row : p.rows) {
    for (int position = row.context - row.num_new; position < row.context; ++position) pairs += position + 1 - p.first_seen(position);
  }
  return 4.0 * p.shape.dim * p.shape.heads * pairs;
}

void time_all() {
  constexpr double kPeakTflops = 989.4;
  std::printf("copy rate %.2f TB/s; TFLOP/s, causal counted as half; floor: the tensor cores' %.0f TFLOP/s\n",
              lab::copy_rate_tbps(), kPeakTflops);
  std::printf("%-72s %9s %15s %15s\n", "", "floor us", "warpgroup", "warp");
  const std::vector<Row> chunks = {{8192, 1024}, {4096, 512}, {2048, 256}, {600, 128}, {200, 72}};
  const Problem problems[] = {
      {{32, 8, 128, 16, 0}, PW_BF16, {{8192, 8192}}, 1},
      {{32, 8, 128, 16, 0}, PW_BF16, std::vector<Row>(4, {2048, 2048}), 2},
      {{32, 8, 128, 16, 0}, PW_BF16, std::vector<Row>(16, {512, 512}), 3},
      {{32, 8, 128, 64, 0}, PW_BF16, {{8192, 8192}}, 4},
      {{32, 8, 128, 256, 0}, PW_BF16, {{8192, 8192}}, 5},
      {{32, 8, 128, 16, 0}, PW_BF16, chunks, 6},
      {{32, 8, 128, 16, 4096}, PW_BF16, {{8192, 8192}}, 7},
      {{32, 8, 64, 16, 0}, PW_BF16, {{8192, 8192}}, 8},
      {{9, 3, 64, 16, 0}, PW_BF16, std::vector<Row>(4, {2048, 2048}), 9},
  };
  for (const Problem& p : problems) {
    const Loaded loaded(p);
    const lab::Device<PwPrefillTile> tiles(p.tiles());
    const lab::Device<int32_t> num_tiles(std::vector<int32_t>{int(tiles.len())});
    const PwPrefillAttention op = loaded.op(tiles, num_tiles, p.tile_tokens());
    const double operations = operations_of(p);
    std::printf("%-72s %9.1f", p.name().c_str(), operations / kPeakTflops * 1e-6);
    for (const Kernel kernel : {launch_warpgroup, launch_warp}) {
      const double us = lab::median_us(4, [&](cudaStream_t stream, int) { LAB_OK(kernel(op, stream)); }, 7);
      std::printf(" %8.1f (%4.0f)", us, operations / us * 1e-6);
    }
    std::printf("\n");
    std::fflush(stdout);
  }
}

// Decode steps as tiles of one token: by kernels of one and of two warpgroups, and by the decode kernel, whose bits depend on
// how long a row's context is.
void time_decodes() {
  const lab::DecodeBench bench;
  std::printf("\nrows x context, 32/8 heads of 128, block 16, bf16: us (TB/s); reads alone: %.2f TB/s\n", bench.read_rate_tbps());
  std::printf("%-20s %18s %18s %18s %18s\n", "", "one warpgroup", "two warpgroups", "warp", "decode kernel");
  const lab::DecodeShape shapes[] = {{32, 8, 128, 1, 192},    {32, 8, 128, 8, 192},    {32, 8, 128, 64, 192},
                                     {32, 8, 128, 256, 192},  {32, 8, 128, 8, 1024},   {32, 8, 128, 64, 1024},
                                     {32, 8, 128, 256, 1024}, {32, 8, 128, 256, 2048}, {32, 8, 128, 1, 8192},
                                     {32, 8, 128, 8, 8192}};
  for (const lab::DecodeShape& shape : shapes) {
    const auto print = [&](double us) { std::printf("   %8.1f (%4.2f)", us, shape.bytes() / us * 1e-6); };
    const auto on_stream = [](Kernel kernel) {
      return [kernel](const PwPrefillAttention& op, PwStream stream) { return kernel(op, pw::cuda_stream(stream)); };
    };
    std::printf("%4d x %-12d", shape.tokens, shape.context);
    print(bench.time_tiles_us(on_stream(launch_warpgroup), shape, 1));
    print(bench.time_tiles_us(on_stream(launch_warpgroup), shape, 32));
    print(bench.time_tiles_us(on_stream(launch_warp), shape, 1));
    print(bench.time_us([](const PwDecodeAttention& op, PwStream stream) { return pw_decode_attention(&op, stream); }, shape));
    std::printf("\n");
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  check_all();
  if (!(argc > 1 && std::strcmp(argv[1], "--check") == 0)) {
    check_long();
    check_all_chunks();
    time_all();
    time_decodes();
  }
  std::printf("%d failures\n", lab::failures());
  return lab::failures() > 0;
}
