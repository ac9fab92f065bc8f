// Products, expansion and embedding with quantised weights: checked against float64 with the formats as they are defined,
// then timed. `--check` does only the checks.
#include "lab.cuh"
#include "quantised/product.cuh"

namespace {

using lab::Device;
using lab::Random;

struct Format {
  PwWeightFormat id;
  const char* name;
  int cols;
  int bytes;
};
constexpr Format kFormats[] = {
    {PW_Q4_0, "Q4_0", 32, 18},   {PW_Q4_1, "Q4_1", 32, 20},   {PW_Q8_0, "Q8_0", 32, 34},
    {PW_Q4_K, "Q4_K", 256, 144}, {PW_Q6_K, "Q6_K", 256, 210},
};
constexpr int kMaxRows = PW_MAX_QUANTISED_ROWS;

// ---- Stored blocks, on the host ----

enum class Scales { kUsual, kExtreme };

uint16_t random_scale(Scales scales, Random& random) {
  const float extremes[] = {0.0f, 6e-8f, -6e-8f, 1e-4f, -1.0f, 65504.0f, -65504.0f};
  const float usual = 0.01f * (0.5f + float(random.below(1000)) / 1000.0f) * (random.below(4) ? 1.0f : -1.0f);
  return lab::to_bits(scales == Scales::kUsual ? usual : extremes[random.below(7)], PW_F16);
}

// Any quants are valid; only the 16-bit floats must be finite.
std::vector<uint8_t> random_blocks(const Format& format, size_t blocks, Scales scales, Random& random) {
  std::vector<uint8_t> bytes(blocks * format.bytes);
  for (auto& byte : bytes) byte = uint8_t(random.next() >> 56);
  for (size_t i = 0; i < blocks; ++i) {
    uint8_t* block = bytes.data() + i * format.bytes;
    const auto put = [&](int at) {
      const uint16_t bits = random_scale(scales, random);
      std::memcpy(block + at, &bits, 2);
    };
    put(format.id == PW_Q6_K ? 208 : 0);
    if (format.id == PW_Q4_1 || format.id == PW_Q4_K) put(2);
  }
  return bytes;
}

float f16_at(const uint8_t* bytes) {
  uint16_t bits;
  std::memcpy(&bits, bytes, 2);
  return lab::from_bits(bits, PW_F16);
}

// One element in single precision, and the size of what it is a difference of.
struct Value {
  float value;
  float size;
};
Value plain(float value) { return {value, std::fabs(value)}; }

Value value_at(PwWeightFormat format, const uint8_t* block, int col) {
  const float d = f16_at(block + (format == PW_Q6_K ? 208 : 0));
  const int nibble_at = format == PW_Q4_0 ? 2 : 4;
  volatile float product;  // no fused multiply-add
  switch (format) {
    case PW_Q4_0:
      return plain(float((block[nibble_at + col % 16] >> (col / 16 * 4) & 15) - 8) * d);
    case PW_Q4_1: {
      const float m = f16_at(block + 2);
      product = float(block[nibble_at + col % 16] >> (col / 16 * 4) & 15) * d;
      return {product + m, std::fabs(product) + std::fabs(m)};
    }
    case PW_Q8_0:
      return plain(float(int8_t(block[2 + col])) * d);
    case PW_Q4_K: {
      const uint8_t* packed = block + 4;
      const int j = col / 32;
      const int scale = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
      const int min = j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | (packed[j] >> 6) << 4;
      const int quant = block[16 + j / 2 * 32 + col % 32] >> (j % 2 * 4) & 15;
      const float minimum = f16_at(block + 2) * float(min);
      product = d * float(scale) * float(quant);
      return {product - minimum, std::fabs(product) + std::fabs(minimum)};
    }
    default: {
      const int half = col / 128, run = col / 32 % 4, l = col % 32;
      const int low = block[half * 64 + run % 2 * 32 + l] >> (run / 2 * 4) & 15;
      const int upper = block[128 + half * 32 + l] >> (run * 2) & 3;
      return plain(d * float(int8_t(block[192 + col / 16])) * float((low | upper << 4) - 32));
    }
  }
}

struct Matrix {
  Format format;
  int n, k;
  std::vector<uint8_t> stored;
  std::vector<Value> values;
  Device<uint8_t> packed;
  PwQuantised view() const { return {packed.get(), n, k, format.id}; }
};

Matrix random_matrix(const Format& format, int n, int k, Scales scales, Random& random) {
  const int blocks = k / format.cols;
  Matrix m{format, n, k, random_blocks(format, size_t(n) * blocks, scales, random), {}, {}};
  m.values.resize(size_t(n) * k);
  for (size_t i = 0; i < m.values.size(); ++i) {
    m.values[i] = value_at(format.id, m.stored.data() + i / format.cols * format.bytes, int(i % format.cols));
  }
  const Device<uint8_t> stored(m.stored);
  m.packed = Device<uint8_t>(size_t(pw_quantised_bytes(format.id, n, k)));
  m.packed.poison();
  const PwQuantisedPack op{stored.get(), m.packed.get(), n, k, format.id};
  LAB_OK(pw_quantised_pack(&op, nullptr));
  LAB_CUDA(cudaDeviceSynchronize());
  return m;
}

const char* element_name(PwElement element) { return element == PW_F32 ? "f32" : element == PW_F16 ? "f16" : "bf16"; }

// ---- Checks ----

std::vector<float> product_f32(const Matrix& m, const Device<uint16_t>& x, int rows, PwElement element) {
  Device<float> out(size_t(rows) * m.n);
  out.poison();
  const PwQuantisedProduct op{m.view(), x.get(), out.get(), m.n, 0, rows, element, PW_F32};
  LAB_OK(pw_quantised_product(&op, nullptr));
  return out.read();
}

// Largest difference, relative to what was summed up.
double product_error(const Matrix& m, const std::vector<uint16_t>& x, PwElement element, const std::vector<float>& got) {
  double worst = 0;
  std::vector<double> row(m.k);
  for (int r = 0; r < kMaxRows; ++r) {
    for (int i = 0; i < m.k; ++i) row[i] = lab::from_bits(x[size_t(r) * m.k + i], element);
    for (int n = 0; n < m.n; ++n) {
      double sum = 0, size = 1e-30;
      for (int i = 0; i < m.k; ++i) {
        const Value& w = m.values[size_t(n) * m.k + i];
        sum += w.value * row[i];
        size += w.size * std::fabs(row[i]);
      }
      const double error = std::fabs(got[size_t(r) * m.n + n] - sum) / size;
      if (!(error <= worst)) worst = std::isfinite(error) ? error : INFINITY;
    }
  }
  return worst;
}

// How many rows' bits depend on how many rows there are.
int rows_that_differ(const Matrix& m, const Device<uint16_t>& x, PwElement element, const std::vector<float>& all) {
  int differ = 0;
  for (int rows = 1; rows < kMaxRows; ++rows) {
    const std::vector<float> some = product_f32(m, x, rows, element);
    differ += std::memcmp(some.data(), all.data(), some.size() * sizeof(float)) != 0;
  }
  return differ;
}

// Elements of a strided 16-bit output that are not the rounded f32 ones, or were written outside of it.
int wrong_elements(const Matrix& m, const Device<uint16_t>& x, PwElement element, PwElement out_element,
                   const std::vector<float>& all) {
  const int rows = 5, stride = m.n + 7, offset = 3;
  Device<uint16_t> out(size_t(rows) * stride);
  out.poison();
  const PwQuantisedProduct op{m.view(), x.get(), out.get(), stride, offset, rows, element, out_element};
  LAB_OK(pw_quantised_product(&op, nullptr));
  const std::vector<uint16_t> got = out.read();
  int wrong = 0;
  for (int r = 0; r < rows; ++r) {
    for (int i = 0; i < stride; ++i) {
      const bool inside = i >= offset && i < offset + m.n;
      const uint16_t expected = inside ? lab::to_bits(all[size_t(r) * m.n + i - offset], out_element) : 0xffff;
      wrong += got[size_t(r) * stride + i] != expected;
    }
  }
  return wrong;
}

void check_product(const Matrix& m, PwElement element, const char* scales, Random& random) {
  const std::vector<uint16_t> host = lab::random_elements(size_t(kMaxRows) * m.k, element, random);
  const Device<uint16_t> x(host);
  const std::vector<float> all = product_f32(m, x, kMaxRows, element);
  char what[96];
  const auto name = [&](const char* part) {
    std::snprintf(what, sizeof what, "%s %dx%d %s scales, %s: %s", m.format.name, m.n, m.k, scales, element_name(element), part);
    return what;
  };
  lab::check(name("product"), product_error(m, host, element, all), 2e-6);
  lab::check(name("rows on their own"), rows_that_differ(m, x, element, all), 0);
  lab::check(name("out bf16, strided"), wrong_elements(m, x, element, PW_BF16, all), 0);
  lab::check(name("out f16, strided"), wrong_elements(m, x, element, PW_F16, all), 0);
}

template <class Word>
Word bits_of(float value, PwElement element) {
  Word bits;
  if constexpr (sizeof(Word) == 4) {
    std::memcpy(&bits, &value, 4);
  } else {
    bits = lab::to_bits(value, element);
  }
  return bits;
}

template <class Word>
void check_expanded(const Matrix& m, PwElement element, Random& random) {
  int wrong = 0;
  const int ranges[][2] = {{0, m.n}, {m.n / 3, m.n - m.n / 3}, {m.n / 2, 1}, {5 % m.n, std::min(20, m.n - 5 % m.n)}};
  for (const auto& [first, num] : ranges) {
    Device<Word> out(size_t(num) * m.k);
    out.poison();
    const PwQuantisedExpand op{m.view(), out.get(), first, num, element};
    LAB_OK(pw_quantised_expand(&op, nullptr));
    const std::vector<Word> got = out.read();
    for (size_t i = 0; i < got.size(); ++i) {
      wrong += got[i] != bits_of<Word>(m.values[size_t(first) * m.k + i].value, element);
    }
  }
  std::vector<int32_t> tokens(37), last_sampled(4);
  for (auto& token : tokens) token = random.below(m.n + 4) - 4;
  for (auto& token : last_sampled) token = random.below(m.n);
  Device<Word> out(tokens.size() * m.k);
  out.poison();
  const Device<int32_t> token_ids(tokens), sampled(last_sampled);
  const PwQuantisedEmbed op{m.view(), token_ids.get(), sampled.get(), out.get(), int(tokens.size()), element};
  LAB_OK(pw_quantised_embed(&op, nullptr));
  const std::vector<Word> got = out.read();
  for (size_t i = 0; i < got.size(); ++i) {
    int token = tokens[i / m.k];
    if (token < 0) token = last_sampled[-1 - token];
    wrong += got[i] != bits_of<Word>(m.values[size_t(token) * m.k + i % m.k].value, element);
  }
  char what[96];
  std::snprintf(what, sizeof what, "%s %dx%d expanded and embedded as %s", m.format.name, m.n, m.k, element_name(element));
  lab::check(what, wrong, 0);
}

void check_all(bool briefly) {
  Random random(1);
  const int small[][2] = {{40, 32}, {1, 96}, {100, 1056}, {576, 576}, {1024, 3072}};
  const int super[][2] = {{40, 256}, {1, 512}, {100, 2816}, {520, 1024}, {1024, 3072}};
  for (const Format& format : kFormats) {
    for (int i = 0; i < (briefly ? 3 : 5); ++i) {
      const auto [n, k] = format.cols == 32 ? small[i] : super[i];
      for (Scales scales : {Scales::kUsual, Scales::kExtreme}) {
        if (n > 1000 && scales == Scales::kExtreme) continue;
        const Matrix m = random_matrix(format, n, k, scales, random);
        const char* name = scales == Scales::kUsual ? "usual" : "extreme";
        for (PwElement element : {PW_BF16, PW_F16}) check_product(m, element, name, random);
        if (n > 1000) continue;
        check_expanded<uint16_t>(m, PW_BF16, random);
        check_expanded<uint16_t>(m, PW_F16, random);
        check_expanded<uint32_t>(m, PW_F32, random);
      }
    }
  }
  const auto status = [](PwWeightFormat format, int n, int k, int rows) {
    const PwQuantisedProduct op{{nullptr, n, k, format}, nullptr, nullptr, n, 0, rows, PW_BF16, PW_BF16};
    return pw_quantised_product(&op, nullptr);
  };
  lab::check("17 rows are refused", status(PW_Q8_0, 16, 32, 17) != PW_INVALID, 0);
  lab::check("half a block is refused", status(PW_Q4_K, 16, 128, 1) != PW_INVALID, 0);
  lab::check("an unknown format is refused", status(9, 16, 256, 1) != PW_UNSUPPORTED, 0);
  lab::check("sizes", pw_quantised_bytes(PW_Q6_K, 17, 512) != 32 * 420 || pw_quantised_bytes(PW_Q8_0, 16, 40) != -1, 0);
}

// ---- Timing ----

struct Shape {
  int n, k;
};
constexpr Shape kShapes[] = {{4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096},
                             {1024, 3072}, {3072, 1024}, {576, 576},    {1536, 576},   {49152, 576}};

// Weights of one format and width, as many rows as fit: any run of 16-row tiles of it is a weight.
struct Pool {
  Format format;
  int k;
  Device<uint8_t>& bytes;

  Pool(const Format& f, int cols, Device<uint8_t>& buffer) : format(f), k(cols), bytes(buffer) {
    Random random(2);
    constexpr int kRows = 64;
    const Device<uint8_t> stored(random_blocks(format, size_t(kRows) * k / format.cols, Scales::kUsual, random));
    const PwQuantisedPack op{stored.get(), bytes.get(), kRows, k, format.id};
    LAB_OK(pw_quantised_pack(&op, nullptr));
    size_t filled = size_t(pw_quantised_bytes(format.id, kRows, k));
    while (filled < bytes.len()) {
      const size_t more = std::min(filled, bytes.len() - filled);
      LAB_CUDA(cudaMemcpy(bytes.get() + filled, bytes.get(), more, cudaMemcpyDeviceToDevice));
      filled += more;
    }
    LAB_CUDA(cudaDeviceSynchronize());
  }
};

using Enqueue = std::function<PwStatus(const PwQuantisedProduct&, PwStream)>;

// Terabytes of weights a second, from one call to the next of a graph that rotates over more than the L2 cache holds.
double product_tbps(const Pool& pool, int n, int rows, const Device<uint16_t>& x, const Device<uint16_t>& out,
                    const Enqueue& enqueue) {
  const size_t weight_bytes = size_t(pw_quantised_bytes(pool.format.id, n, pool.k));
  const int copies = int(std::min<size_t>(pool.bytes.len() / weight_bytes, 512));
  const int calls = std::max(4, std::min(copies, int((size_t(120) << 20) / weight_bytes) + 1));
  const double us = lab::median_us(calls, [&](cudaStream_t stream, int i) {
    const PwQuantised weight{pool.bytes.get() + size_t(i % copies) * weight_bytes, n, pool.k, pool.format.id};
    const PwQuantisedProduct op{weight, x.get(), out.get(), n, 0, rows, PW_BF16, PW_BF16};
    LAB_OK(enqueue(op, reinterpret_cast<PwStream>(stream)));
  }, 9);
  return double(weight_bytes) / us * 1e-6;
}

__global__ void read_all(const uint4* from, size_t len, uint32_t* out) {
  uint32_t sum = 0;
  const size_t threads = size_t(gridDim.x) * blockDim.x;
  for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < len; i += 4 * threads) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (i + j * threads < len) {
        const uint4 v = from[i + j * threads];
        sum += v.x ^ v.y ^ v.z ^ v.w;
      }
    }
  }
  if (sum == 0x12345678) *out = sum;
}

double read_tbps(const Device<uint8_t>& bytes) {
  const Device<uint32_t> out(1);
  const double us = lab::median_us(4, [&](cudaStream_t stream, int) {
    read_all<<<132 * 8, 512, 0, stream>>>(reinterpret_cast<const uint4*>(bytes.get()), bytes.len() / 16, out.get());
  });
  return double(bytes.len()) / us * 1e-6;
}

// ---- Other cuts ----

template <class F, int STAGES, int MAX_WARPS, int MIN_BLOCKS, int GROUP_UNITS = 4>
Enqueue cut() {
  using namespace pw::quantised;
  return [](const PwQuantisedProduct& op, PwStream stream) {
    using C = Cut<F, STAGES, F::kCols == 256 ? 1 : 4, GROUP_UNITS>;
    const ProductPlan plan = usual_plan<F, C>(op.weight, MAX_WARPS, MIN_BLOCKS);
    return launch_product<F, __nv_bfloat16, 1, C, MAX_WARPS, MIN_BLOCKS>(op, plan, stream);
  };
}

template <class F>
void time_cuts(const Format& format, Device<uint8_t>& buffer, const Device<uint16_t>& x, const Device<uint16_t>& out) {
  const std::pair<const char*, Enqueue> cuts[] = {
      {"8 warps, 3 blocks, 2 stages", cut<F, 2, 8, 3>()},
      {"8 warps, 2 blocks, 3 stages", cut<F, 3, 8, 2>()},
      {"8 warps, 2 blocks, 4 stages", cut<F, 4, 8, 2>()},
      {"16 warps, 2 blocks, 2 stages", cut<F, 2, 16, 2>()},
      {"16 warps, 1 block, 2 stages", cut<F, 2, 16, 1>()},
      {"8, 3, 2, in groups of 8", cut<F, 2, 8, 3, F::kCols == 256 ? 8 : 4>()},
      {"8, 2, 3, in groups of 8", cut<F, 3, 8, 2, F::kCols == 256 ? 8 : 4>()},
      {"16, 1, 2, in groups of 8", cut<F, 2, 16, 1, F::kCols == 256 ? 8 : 4>()},
  };
  for (int rows : {1, 8}) {
    std::printf("\n%s, %d rows: TB/s of weights\n%-28s", format.name, rows, "");
    for (const Shape& s : kShapes) std::printf(" %6dx%-5d", s.n, s.k);
    for (const auto& [name, enqueue] : cuts) {
      std::printf("\n%-28s", name);
      for (const Shape& s : kShapes) {
        if (s.k % format.cols != 0) continue;
        const Pool pool(format, s.k, buffer);
        std::printf(" %12.2f", product_tbps(pool, s.n, rows, x, out, enqueue));
      }
      std::fflush(stdout);
    }
    std::printf("\n");
  }
}

void time_variants(Device<uint8_t>& buffer, const Device<uint16_t>& x, const Device<uint16_t>& out) {
  time_cuts<pw::quantised::Q8_0>(kFormats[2], buffer, x, out);
  time_cuts<pw::quantised::Q4_K>(kFormats[3], buffer, x, out);
  time_cuts<pw::quantised::Q6_K>(kFormats[4], buffer, x, out);
}

// ---- The library's choice ----

void time_all(Device<uint8_t>& buffer, const Device<uint16_t>& x, const Device<uint16_t>& out, double limit) {
  std::printf("\n%-5s %-12s %7s  TB/s of weights at rows 1, 2, 4, 8, 16 (and of the read limit)\n", "", "n x k", "MB");
  for (const Format& format : kFormats) {
    for (const Shape& s : kShapes) {
      if (s.k % format.cols != 0) continue;
      const Pool pool(format, s.k, buffer);
      std::printf("%-5s %6dx%-5d %7.1f ", format.name, s.n, s.k, 1e-6 * double(pw_quantised_bytes(format.id, s.n, s.k)));
      for (int rows : {1, 2, 4, 8, 16}) {
        const double tbps = product_tbps(pool, s.n, rows, x, out, [](const PwQuantisedProduct& op, PwStream stream) {
          return pw_quantised_product(&op, stream);
        });
        std::printf(" %5.2f (%2.0f%%)", tbps, 100 * tbps / limit);
      }
      std::printf("\n");
      std::fflush(stdout);
    }
  }
}

void time_expand(Device<uint8_t>& buffer) {
  std::printf("\nexpand 4096x4096 to bf16: TB/s read and written\n");
  const int n = 4096, k = 4096, copies = 4;
  Device<uint16_t> out(size_t(copies) * n * k);
  for (const Format& format : kFormats) {
    const Pool pool(format, k, buffer);
    const size_t bytes = size_t(pw_quantised_bytes(format.id, n, k));
    const double us = lab::median_us(copies, [&](cudaStream_t stream, int i) {
      const PwQuantised weight{buffer.get() + i * bytes, n, k, format.id};
      const PwQuantisedExpand op{weight, out.get() + size_t(i) * n * k, 0, n, PW_BF16};
      LAB_OK(pw_quantised_expand(&op, reinterpret_cast<PwStream>(stream)));
    });
    std::printf("%-5s %6.2f\n", format.name, (double(bytes) + 2.0 * n * k) / us * 1e-6);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool only_checks = argc > 1 && std::strcmp(argv[1], "--check") == 0;
  check_all(only_checks);
  std::printf("%d failed\n", lab::failures());
  if (only_checks) return lab::failures() > 0;

  Device<uint8_t> buffer(size_t(1200) << 20);
  Random random(3);
  const Device<uint16_t> x(lab::random_elements(size_t(kMaxRows) * 14336, PW_BF16, random));
  const Device<uint16_t> out(size_t(kMaxRows) * 128256);
  const double limit = read_tbps(buffer);
  std::printf("\ncopy %.2f TB/s, read %.2f TB/s\n", lab::copy_rate_tbps(), limit);
  time_variants(buffer, x, out);
  time_all(buffer, x, out, limit);
  time_expand(buffer);
  return lab::failures() > 0;
}
