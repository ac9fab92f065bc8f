// The row ops: against float64, then timed beside the bytes they must move. `--check`: only the former.
#include "common/dependent.cuh"
#include "lab.cuh"

namespace {

using lab::Device;
using lab::Random;

const PwElement kElements[] = {PW_F32, PW_F16, PW_BF16};
const char* name_of(PwElement element) { return element == PW_F32 ? "f32" : element == PW_F16 ? "f16" : "bf16"; }
size_t bytes_of(PwElement element) { return element == PW_F32 ? 4 : 2; }
// Of a sum of squares: half a rounding of the element, or a few of f32.
double allowed(PwElement element) { return element == PW_F32 ? 1e-6 : element == PW_F16 ? 4e-4 : 3e-3; }

float round_to(float value, PwElement element) {
  return element == PW_F32 ? value : lab::from_bits(lab::to_bits(value, element), element);
}

// Elements of any kind, on the device; values on the host. Some bytes behind the last must stay as they were.
struct Array {
  PwElement element;
  size_t len;
  Device<uint8_t> bytes;
  static constexpr size_t kGuard = 64;

  Array(size_t len, PwElement element) : element(element), len(len), bytes(len * bytes_of(element) + kGuard) {
    bytes.poison();
  }
  Array(const std::vector<float>& values, PwElement element) : Array(values.size(), element) {
    std::vector<uint8_t> raw(len * bytes_of(element) + kGuard, 0xff);
    for (size_t i = 0; i < len; ++i) {
      uint16_t bits = element == PW_F32 ? 0 : lab::to_bits(values[i], element);
      if (element == PW_F32) std::memcpy(&raw[4 * i], &values[i], 4);
      if (element != PW_F32) std::memcpy(&raw[2 * i], &bits, 2);
    }
    bytes.write(raw);
  }
  void* get() const { return bytes.get(); }
  std::vector<double> read() const {
    const std::vector<uint8_t> raw = bytes.read();
    std::vector<double> values(len);
    for (size_t i = 0; i < len; ++i) {
      float value;
      uint16_t bits;
      if (element == PW_F32) std::memcpy(&value, &raw[4 * i], 4);
      if (element != PW_F32) std::memcpy(&bits, &raw[2 * i], 2), value = lab::from_bits(bits, element);
      values[i] = value;
    }
    for (size_t i = len * bytes_of(element); i < raw.size(); ++i) {
      if (raw[i] != 0xff) values[0] = NAN;
    }
    return values;
  }
};

std::vector<float> random_values(size_t len, PwElement element, Random& random) {
  std::vector<float> values(len);
  for (auto& value : values) value = round_to(random.normal(), element);
  return values;
}

int num_expected = 0;

// There are hundreds, so only what fails is printed.
void expect(const char* op, PwElement element, int rows, int cols, const Array& got, const std::vector<double>& expected,
            double allowed) {
  LAB_CUDA(cudaDeviceSynchronize());
  num_expected += 1;
  const double error = lab::relative_error(got.read(), expected);
  if (error <= allowed) return;
  char what[96];
  std::snprintf(what, sizeof what, "%s %s %d x %d", op, name_of(element), rows, cols);
  lab::check(what, error, allowed);
}

struct Shape {
  int rows;
  int cols;
};
// Row widths 1 .. 1001 are those of the conformance suite.
const Shape kShapes[] = {{1, 1},    {3, 7},     {5, 32},    {33, 48},   {7, 576},  {4, 1001},  {2, 4096},
                         {3, 4100}, {2, 14336}, {1, 16384}, {2, 16392}, {1, 4097}, {300, 64}};

void check_embed_and_gather(PwElement element, Shape shape, Random& random) {
  const int vocab = 50, cols = shape.cols, rows = shape.rows;
  const std::vector<float> table = random_values(size_t(vocab) * cols, element, random);
  std::vector<int32_t> tokens, sampled(rows), indices;
  std::vector<double> embedded, gathered;
  for (int row = 0; row < rows; ++row) {
    sampled[row] = random.below(vocab);
    const int token = row % 3 == 1 ? -1 - row : random.below(vocab);
    tokens.push_back(token);
    const int index = row % 4 == 3 ? -1 : random.below(vocab);
    indices.insert(indices.end(), {index, 77, 77, 77});
    for (int i = 0; i < cols; ++i) {
      embedded.push_back(table[size_t(token < 0 ? sampled[row] : token) * cols + i]);
      gathered.push_back(index < 0 ? 0.0 : table[size_t(index) * cols + i]);
    }
  }
  const Array device_table(table, element), out(size_t(rows) * cols, element), rows_out(size_t(rows) * cols, element);
  const Device<int32_t> device_tokens(tokens), device_sampled(sampled), device_indices(indices);
  PwEmbed embed = {};
  embed.step.token_ids = device_tokens.get();
  embed.last_sampled = device_sampled.get();
  embed.table = device_table.get(), embed.out = out.get();
  embed.rows = rows, embed.cols = cols, embed.element = element;
  LAB_OK(pw_embed(&embed, nullptr));
  expect("embed", element, rows, cols, out, embedded, 0);
  const PwGatherRows gather = {device_table.get(), device_indices.get(), 4, rows_out.get(), rows, cols, element};
  LAB_OK(pw_gather_rows(&gather, nullptr));
  expect("gather_rows", element, rows, cols, rows_out, gathered, 0);
}

void check_rms_norm(PwElement element, Shape shape, bool with_residual, Random& random) {
  const size_t len = size_t(shape.rows) * shape.cols;
  const std::vector<float> x = random_values(len, element, random), old = random_values(len, element, random);
  const std::vector<float> weight = random_values(shape.cols, PW_F32, random);
  std::vector<double> sums(len), expected(len);
  const float eps = 1e-5f;
  for (int row = 0; row < shape.rows; ++row) {
    double squares = 0;
    for (int i = 0; i < shape.cols; ++i) {
      const size_t at = size_t(row) * shape.cols + i;
      sums[at] = with_residual ? round_to(old[at] + x[at], element) : x[at];
      squares += sums[at] * sums[at];
    }
    for (int i = 0; i < shape.cols; ++i) {
      const size_t at = size_t(row) * shape.cols + i;
      expected[at] = sums[at] / std::sqrt(squares / shape.cols + eps) * weight[i];
    }
  }
  const Array device_x(x, element), residual(old, element), device_weight(weight, PW_F32), out(len, element);
  const PwRmsNorm op = {device_x.get(),
                        with_residual ? residual.get() : nullptr,
                        static_cast<const float*>(device_weight.get()),
                        out.get(),
                        eps,
                        shape.rows,
                        shape.cols,
                        element};
  LAB_OK(pw_rms_norm(&op, nullptr));
  expect(with_residual ? "add_rms_norm" : "rms_norm", element, shape.rows, shape.cols, out, expected, allowed(element));
  if (with_residual) expect("  residual", element, shape.rows, shape.cols, residual, sums, 0);
}

void check_silu_and_bias(PwElement element, Shape shape, Random& random) {
  const size_t len = size_t(shape.rows) * shape.cols;
  std::vector<float> x = random_values(2 * len, element, random);
  for (auto& value : x) value = round_to(6 * value, element);
  const std::vector<float> bias = random_values(shape.cols, PW_F32, random);
  std::vector<double> gated(len), biased(len);
  for (int row = 0; row < shape.rows; ++row) {
    for (int i = 0; i < shape.cols; ++i) {
      const size_t at = size_t(row) * shape.cols + i, gate_at = size_t(row) * 2 * shape.cols + i;
      const double gate = x[gate_at], up = x[gate_at + shape.cols];
      gated[at] = gate / (1 + std::exp(-gate)) * up;
      biased[at] = double(x[at]) + bias[i];
    }
  }
  const Array device_x(x, element), out(len, element);
  const PwSiluMul silu = {device_x.get(), out.get(), shape.rows, shape.cols, element};
  LAB_OK(pw_silu_mul(&silu, nullptr));
  expect("silu_mul", element, shape.rows, shape.cols, out, gated, allowed(element));
  const Array in_place(std::vector<float>(x.begin(), x.begin() + len), element), device_bias(bias, PW_F32);
  const PwAddBias add = {in_place.get(), static_cast<const float*>(device_bias.get()), shape.rows, shape.cols, element};
  LAB_OK(pw_add_bias(&add, nullptr));
  expect("add_bias", element, shape.rows, shape.cols, in_place, biased, allowed(element));
}

// As `tensor_backend::RandomElements` defines them.
void check_fill_random(PwElement element, size_t len) {
  const Array out(len, element);
  const PwFillRandom op = {out.get(), int64_t(len), 0xfedcba9876543210ull, 0.02f, element};
  LAB_OK(pw_fill_random(&op, nullptr));
  std::vector<double> expected;
  for (size_t i = 0; i < len; ++i) {
    uint64_t z = op.seed + i + 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    const double unit = double((z ^ (z >> 31)) >> 40) / double(1 << 23) - 1.0;
    expected.push_back(round_to(float(double(op.bound) * unit), element));
  }
  expect("fill_random", element, 1, int(len), out, expected, 0);
}

struct RopeShape {
  int rows;
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int block_size;
};
const RopeShape kRopeShapes[] = {{1, 32, 8, 128, 16}, {5, 9, 3, 64, 16}, {4, 6, 2, 80, 16}, {3, 14, 2, 6, 24},
                                 {3, 2, 2, 64, 3},    {2, 4, 1, 96, 1},  {3, 3, 1, 256, 7}, {2, 2, 1, 2, 5},
                                 {70, 4, 2, 16, 256}, {2, 2, 1, 1024, 4}};

struct RopeCase {
  RopeShape shape;
  PwElement element;
  PwElement kv_element;
  bool has_norm;
};

// All on the host, and the op that works on a copy of it on the device.
struct Rope {
  RopeCase c;
  static constexpr int kLayers = 3, kLayer = 1, kSlots = 4, kMaxPositions = 600, kTableLen = 600, kBlocks = 40;
  std::vector<float> qkv, rope, q_norm, k_norm;
  std::vector<int32_t> positions, slots, tables;
  const float eps = 1e-6f;

  int heads() const { return c.shape.num_heads + 2 * c.shape.num_kv_heads; }
  int64_t half_layer() const { return int64_t(c.shape.num_kv_heads) * c.shape.block_size * c.shape.head_dim; }
  int64_t block_stride() const { return 2 * half_layer() * kLayers; }

  Rope(const RopeCase& c, Random& random) : c(c) {
    const int d = c.shape.head_dim;
    qkv = random_values(size_t(c.shape.rows) * heads() * d, c.element, random);
    q_norm = random_values(d, PW_F32, random), k_norm = random_values(d, PW_F32, random);
    for (int position = 0; position < kMaxPositions; ++position) {
      for (int i = 0; i < d; ++i) {
        const double angle = position * std::pow(1e4, -2.0 * (i % (d / 2)) / d);
        rope.push_back(float(i < d / 2 ? std::cos(angle) : std::sin(angle)));
      }
    }
    tables.assign(kSlots * kTableLen, 1 << 20);
    // Distinct places: the tokens of a slot have their own positions, and no two slots share a block.
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int i = 0; i < kBlocks / kSlots; ++i) tables[slot * kTableLen + i] = i * kSlots + slot;
    }
    const int max_position = std::min(kMaxPositions, kBlocks / kSlots * c.shape.block_size);
    for (int row = 0; row < c.shape.rows; ++row) {
      const bool is_padding = row % 5 == 3 || row / kSlots >= max_position;
      positions.push_back(is_padding ? -1 : (max_position - 1 - row / kSlots));
      slots.push_back(is_padding ? -7 : row % kSlots);
    }
  }

  // What one head of a token becomes.
  std::vector<double> rotated(int row, int head) const {
    const int d = c.shape.head_dim, h = d / 2;
    std::vector<double> x(d), y(d);
    double squares = 0;
    for (int i = 0; i < d; ++i) x[i] = qkv[(size_t(row) * heads() + head) * d + i], squares += x[i] * x[i];
    if (head >= c.shape.num_heads + c.shape.num_kv_heads) return x;
    for (int i = 0; c.has_norm && i < d; ++i) {
      x[i] *= (head < c.shape.num_heads ? q_norm : k_norm)[i] / std::sqrt(squares / d + eps);
    }
    const float* rotation = &rope[size_t(positions[row]) * d];
    for (int i = 0; i < h; ++i) {
      y[i] = x[i] * rotation[i] - x[i + h] * rotation[i + h];
      y[i + h] = x[i + h] * rotation[i] + x[i] * rotation[i + h];
    }
    return y;
  }

  int64_t place(int row, int head) const {
    const int at = positions[row], block = tables[slots[row] * kTableLen + at / c.shape.block_size];
    const int64_t row_of_layer = int64_t(head - c.shape.num_heads) * c.shape.block_size + at % c.shape.block_size;
    return block * block_stride() + kLayer * 2 * half_layer() + row_of_layer * c.shape.head_dim;
  }

  void check(Random& random) {
    const int d = c.shape.head_dim;
    const std::vector<float> old = random_values(size_t(kBlocks * block_stride()), c.kv_element, random);
    const Array device_qkv(qkv, c.element), pool(old, c.kv_element), table(rope, PW_F32), qn(q_norm, PW_F32), kn(k_norm, PW_F32);
    const Device<int32_t> device_positions(positions), device_slots(slots), device_tables(tables);
    PwRopeAppend op = {};
    op.step = {nullptr, device_positions.get(), device_slots.get(), device_tables.get(), kTableLen};
    op.qkv = device_qkv.get();
    op.rope = static_cast<const float*>(table.get());
    op.q_norm = c.has_norm ? static_cast<const float*>(qn.get()) : nullptr;
    op.k_norm = c.has_norm ? static_cast<const float*>(kn.get()) : nullptr;
    op.norm_eps = eps;
    op.kv = {pool.get(), block_stride(), kLayer * 2 * half_layer(), kBlocks, c.shape.block_size, c.shape.num_kv_heads, d, c.kv_element};
    op.num_heads = c.shape.num_heads, op.rows = c.shape.rows, op.element = c.element;
    LAB_OK(pw_rope_append(&op, nullptr));

    std::vector<double> expected(qkv.begin(), qkv.end()), expected_pool(old.begin(), old.end());
    for (int row = 0; row < c.shape.rows; ++row) {
      for (int head = 0; positions[row] >= 0 && head < heads(); ++head) {
        const std::vector<double> y = rotated(row, head);
        for (int i = 0; i < d; ++i) {
          expected[(size_t(row) * heads() + head) * d + i] = y[i];
          if (head >= c.shape.num_heads) expected_pool[place(row, head) + i] = y[i];
        }
      }
    }
    char what[64];
    std::snprintf(what, sizeof what, "rope_append%s %d/%d d %d", c.has_norm ? " norm" : "", c.shape.num_heads,
                  c.shape.num_kv_heads, d);
    expect(what, c.element, c.shape.rows, heads() * d, device_qkv, expected, allowed(c.element));
    // The pool gets exactly what the activations hold, and nothing else of it changes.
    const std::vector<double> stored = device_qkv.read();
    for (int row = 0; row < c.shape.rows; ++row) {
      for (int head = c.shape.num_heads; positions[row] >= 0 && head < heads(); ++head) {
        for (int i = 0; i < d; ++i) {
          expected_pool[place(row, head) + i] = round_to(float(stored[(size_t(row) * heads() + head) * d + i]), c.kv_element);
        }
      }
    }
    expect("  pool", c.kv_element, c.shape.rows, c.shape.block_size, pool, expected_pool, 0);
  }
};

void check_updates() {
  std::vector<int32_t> tables(5 * 70, -1);
  std::vector<PwTableUpdate> updates;
  for (int i = 0; i < 300; ++i) updates.push_back({i / 70, i % 70, i * 3});
  Device<int32_t> device_tables(tables);
  const Device<PwTableUpdate> device_updates(updates);
  const PwApplyUpdates apply = {device_updates.get(), 300, 70, device_tables.get()};
  LAB_OK(pw_apply_updates(&apply, nullptr));
  for (const auto& update : updates) tables[update.slot * 70 + update.index] = update.block;
  LAB_CUDA(cudaDeviceSynchronize());
  lab::check("apply_updates", device_tables.read() == tables ? 0 : 1, 0);
}

void check_all() {
  Random random(4);
  for (PwElement element : kElements) {
    for (Shape shape : kShapes) {
      check_embed_and_gather(element, shape, random);
      check_rms_norm(element, shape, false, random);
      check_rms_norm(element, shape, true, random);
      check_silu_and_bias(element, shape, random);
    }
    for (PwElement to : kElements) {
      for (RopeShape shape : kRopeShapes) {
        Rope({shape, element, to, false}, random).check(random);
        Rope({shape, element, to, true}, random).check(random);
      }
    }
    for (size_t len : {3, 70000}) check_fill_random(element, len);
  }
  check_updates();
  std::printf("%d results of row ops compared\n", num_expected);
  lab::check("pw_check_device", pw_check_device(), 0);
  lab::check("pw_abi_version", pw_abi_version() == PW_ABI_VERSION ? 0 : 1, 0);
  for (int status : {PW_OK, PW_UNSUPPORTED, PW_INVALID, -99, 2, 700}) std::printf("%d: %s\n", status, pw_status_name(status));
}

__global__ void empty() {
  pw::wait_for_previous();
  pw::let_next_start();
}

// One op at one size: `sets` copies of its arrays are used in turn.
struct Timed {
  const char* op;
  int rows;
  int cols;
  double bytes;
  std::function<void(cudaStream_t, int)> enqueue;
};

void time(const Timed& timed, double rate_tbps) {
  double us[2];
  for (int early = 0; early < 2; ++early) {
    pw::starts_early() = early;
    us[early] = lab::median_us(timed.bytes < 4e6 ? 200 : 20, timed.enqueue);
  }
  const double floor = timed.bytes / rate_tbps * 1e-6;
  std::printf("%-14s %6d x %-6d %9.2f us %9.2f us early start  floor %8.2f us  %5.1f %% of the copy rate\n", timed.op, timed.rows,
              timed.cols, us[0], us[1], floor, 100 * floor / us[1]);
}

void time_all() {
  const double rate = lab::copy_rate_tbps();
  std::printf("copy rate %.2f TB/s\n", rate);
  time({"empty", 1, 1, 0, [](cudaStream_t stream, int) { LAB_OK(pw::launch_dependent(empty, dim3(1), dim3(32), stream)); }}, rate);
  const int max_rows = 4096, cols = 4096, wide = 14336, sets = 2, d = 128, heads = 48;
  Random random(9);
  // A few arrays of all sizes' needs, filled with random elements; which op reads what does not matter to its time.
  const int64_t len = int64_t(max_rows) * wide * 2;
  Device<uint16_t> big(len * sets), out(int64_t(max_rows) * wide * sets), table(int64_t(128256) * cols);
  for (auto [array, num] : {std::pair{big.get(), len * sets}, {table.get(), int64_t(128256) * cols}}) {
    const PwFillRandom fill = {array, num, 1, 1.0f, PW_BF16};
    LAB_OK(pw_fill_random(&fill, nullptr));
  }
  Device<float> weight(wide), rope(int64_t(8192) * d);
  for (auto [array, num] : {std::pair{weight.get(), int64_t(wide)}, {rope.get(), int64_t(8192) * d}}) {
    const PwFillRandom fill = {array, num, 2, 1.0f, PW_F32};
    LAB_OK(pw_fill_random(&fill, nullptr));
  }
  std::vector<int32_t> tokens, positions, slots, tables(256 * 512);
  for (int i = 0; i < max_rows; ++i) tokens.push_back(random.below(128256)), positions.push_back(i % 8192), slots.push_back(i % 256);
  // 256 slots of blocks of one layer of 8 heads, in a pool of `big`'s size.
  const int64_t block = int64_t(2) * 8 * 16 * d;
  for (auto& entry : tables) entry = random.below(int(len / block));
  const Device<int32_t> device_tokens(tokens), device_positions(positions), device_slots(slots), device_tables(tables);

  for (int rows : {1, 8, 64, 256, 4096}) {
    const auto x = [&](int i) { return big.get() + (i % sets) * len; };
    const auto y = [&](int i) { return out.get() + int64_t(i % sets) * max_rows * wide; };
    const double row_bytes = 2.0 * rows * cols;
    time({"embed", rows, cols, 2 * row_bytes, [&](cudaStream_t stream, int i) {
            PwEmbed op = {};
            op.step.token_ids = device_tokens.get();
            op.table = table.get(), op.out = y(i), op.rows = rows, op.cols = cols, op.element = PW_BF16;
            LAB_OK(pw_embed(&op, stream));
          }}, rate);
    time({"rms_norm", rows, cols, 2 * row_bytes, [&](cudaStream_t stream, int i) {
            const PwRmsNorm op = {x(i), nullptr, weight.get(), y(i), 1e-5f, rows, cols, PW_BF16};
            LAB_OK(pw_rms_norm(&op, stream));
          }}, rate);
    time({"add_rms_norm", rows, cols, 4 * row_bytes, [&](cudaStream_t stream, int i) {
            const PwRmsNorm op = {x(i), x(i) + len / 2, weight.get(), y(i), 1e-5f, rows, cols, PW_BF16};
            LAB_OK(pw_rms_norm(&op, stream));
          }}, rate);
    time({"silu_mul", rows, wide, 6.0 * rows * wide, [&](cudaStream_t stream, int i) {
            const PwSiluMul op = {x(i), y(i), rows, wide, PW_BF16};
            LAB_OK(pw_silu_mul(&op, stream));
          }}, rate);
    time({"rope_append", rows, heads * d, 2.0 * rows * d * (2 * 40 + 8 + 16), [&](cudaStream_t stream, int i) {
            PwRopeAppend op = {};
            op.step = {nullptr, device_positions.get(), device_slots.get(), device_tables.get(), 512};
            op.qkv = y(i), op.rope = rope.get(), op.num_heads = 32, op.rows = rows, op.element = PW_BF16;
            op.kv = {big.get(), block, 0, int(len / block), 16, 8, d, PW_BF16};
            LAB_OK(pw_rope_append(&op, stream));
          }}, rate);
    time({"gather_rows", rows, cols, 2 * row_bytes, [&](cudaStream_t stream, int i) {
            const PwGatherRows op = {x(i), device_positions.get(), 1, y(i), rows, cols, PW_BF16};
            LAB_OK(pw_gather_rows(&op, stream));
          }}, rate);
    time({"add_bias", rows, cols, 2 * row_bytes, [&](cudaStream_t stream, int i) {
            const PwAddBias op = {y(i), weight.get(), rows, cols, PW_BF16};
            LAB_OK(pw_add_bias(&op, stream));
          }}, rate);
  }
}

}  // namespace

int main(int argc, char** argv) {
  check_all();
  if (argc < 2 || std::strcmp(argv[1], "--check") != 0) time_all();
  std::printf("%d failures\n", lab::failures());
  return lab::failures() > 0;
}
