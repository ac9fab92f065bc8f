// Lab of prefill attention: checks every kernel against float64, then times them.
#include <chrono>
#include <string>
#include <thread>

#include "common/launch.cuh"
#include "lab.cuh"
#include "prefill_attention/tile.cuh"

using namespace pw::prefill;

namespace {

using Kernel = PwStatus (*)(const PwPrefillAttention&, cudaStream_t);

struct Candidate {
  const char* name;
  Kernel kernel;
};

constexpr Candidate kCandidates[] = {{"warpgroup", launch_warpgroup}, {"warp", launch_warp}, {"plain", launch_plain}};

struct Shape {
  int heads, kv_heads, dim, block, window;
};

// A row's context, and how many of its last tokens are new.
struct Row {
  int context, num_new;
};

// ---- a problem on the host

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
    lab::Random random(seed);
    // Repeated with a period that shares no factor with any stride: random numbers take longer than the kernels.
    const std::vector<uint16_t> values = lab::random_elements(65521, element, random);
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

  // Tiles of one row, or of all where `only` is negative, longest contexts first.
  std::vector<PwPrefillTile> tiles(int only = -1) const {
    const int most = pw_prefill_tile_tokens(shape.heads, shape.kv_heads, shape.dim);
    std::vector<PwPrefillTile> out;
    int token = 0;
    for (int slot = 0; slot < int(rows.size()); ++slot) {
      const Row& row = rows[slot];
      for (int i = 0; i < row.num_new && (only < 0 || only == slot); i += most) {
        out.push_back({token + i, std::min(most, row.num_new - i), row.context - row.num_new + i, slot});
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
        for (int i = 0; i < shape.dim; ++i) sum += double(lab::from_bits(query[i], element)) * lab::from_bits(key[i], element);
        terms[p - begin] = sum * scale();
        largest = std::max(largest, terms[p - begin]);
      }
      for (double& term : terms) total += term = std::exp(term - largest);
      double* to = out + head * shape.dim;
      std::fill(to, to + shape.dim, 0.0);
      for (int p = begin; p <= position; ++p) {
        const uint16_t* value = &pool[offset(slot, p, kv_head, 1)];
        for (int i = 0; i < shape.dim; ++i) to[i] += terms[p - begin] / total * lab::from_bits(value[i], element);
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

// ---- the same on the device

// Ends the program if the kernel does not end. PW_MAX_SPINS would do it too, but with a trap in its waits the compiler no
// longer lets the products of a warpgroup overlap, and another kernel would be checked than is used.
void wait_or_give_up() {
  const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(5);
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

  PwPrefillAttention op(const lab::Device<PwPrefillTile>& tiles) const {
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
    op.num_tiles = int(tiles.len());
    op.counters = counters_.get();
    return op;
  }

  // Empty if the kernel does not take the shape.
  std::vector<uint16_t> run(Kernel kernel, const std::vector<PwPrefillTile>& tiles) {
    const lab::Device<PwPrefillTile> on_device(tiles);
    out_.poison();
    const PwStatus status = kernel(op(on_device), nullptr);
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

// Against float64; then reversed and row by row, which must give the same bits.
void check(const Problem& p) {
  const std::vector<double> expected = p.answer();
  const double allowed = p.element == PW_F16 ? 1e-3 : 8e-3;
  Loaded loaded(p);
  for (const Candidate& candidate : kCandidates) {
    const std::string what = std::string(candidate.name) + " " + p.name();
    std::fflush(stdout);
    const std::vector<uint16_t> whole = loaded.run(candidate.kernel, p.tiles());
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
    wrong += loaded.run(candidate.kernel, reversed) != whole;
    for (int slot = 0; slot < std::min<int>(4, p.rows.size()); ++slot) {
      wrong += wrong_bits(p, whole, loaded.run(candidate.kernel, p.tiles(slot)), slot);
    }
    lab::check((what + ": bits").c_str(), double(wrong), 0);
    std::fflush(stdout);
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
    const PwPrefillAttention op = loaded.op(tiles);
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

}  // namespace

int main(int argc, char** argv) {
  check_all();
  if (!(argc > 1 && std::strcmp(argv[1], "--check") == 0)) {
    check_long();
    time_all();
  }
  std::printf("%d failures\n", lab::failures());
  return lab::failures() > 0;
}
