// Sampling and scoring: a team of blocks for each row, which reads the row once and keeps it in its shared memory, so that
// what filters and scores read again and again costs no memory traffic. What a row needs is read from its job and its slot,
// so one captured launch serves all.
#include "common/dependent.cuh"
#include "common/geometry.cuh"
#include "common/philox.cuh"
#include "sampling/adjust.cuh"
#include "sampling/draw.cuh"
#include "sampling/plan.cuh"
#include "sampling/score.cuh"

namespace pw::sampling {
namespace {

struct Shared {
  Mail mail;
  WarpWords warps;
  Selection selection;
};

// The uniform number in [0, 1) behind a draw: see `uniform` in crates/sampling/src/random.rs.
__device__ double uniform(const PwSlotParams& params, int output_position) {
  const uint4 counter = make_uint4(uint32_t(output_position), params.sample_index, 0, 0);
  const uint4 words = philox4x32_10(counter, make_uint2(uint32_t(params.seed), uint32_t(params.seed >> 32)));
  return double((uint64_t(words.x) << 32 | words.y) >> 11) * 0x1p-53;
}

// For top-k and the top tokens: bins over all logits between the smallest and the largest.
__device__ Bins bins_over(float max, float min) {
  const float span = max - min;
  return {max, float(kBins - 1) / (span > 0.0f ? span : 1.0f)};
}

// The token, from the adjusted logits of the part.
template <bool HELD>
__device__ uint32_t choose(Team& team, Shared& shared, const Part& part, const Extremes& extremes, const PwSlotParams& params,
                           int output_position, int vocab_size) {
  if (params.temperature == 0.0f) return id_at(extremes.best);
  const float max = extremes.max();
  const Weigher weigher(max, params.temperature);
  Limit limit = Limit::none();
  if (params.top_k > 0 && params.top_k < vocab_size) {
    limit = select<HELD>(team, shared.selection, part, bins_over(max, extremes.min), Counting{params.top_k}, limit);
  }
  if (params.top_p < 1.0f) {
    const Bins bins = {max, 1.0f / (Weighing::kWidth * params.temperature)};
    limit = select<HELD>(team, shared.selection, part, bins, Weighing{weigher, double(params.top_p)}, limit);
  }
  return take<HELD>(team, shared.warps, part, {weigher, limit, params.min_p, uniform(params, output_position)});
}

// One row's job by its team.
template <bool HELD>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor) sample(const PwSample op, int part_len) {
  extern __shared__ float4 held[];
  __shared__ Shared shared;
  wait_for_previous();
  let_next_start();
  const int row = blockIdx.x / cluster_size(), vocab_size = op.state.vocab_size;
  const PwLogitJob job = op.jobs[row];
  if (job.token_index < 0) return;
  Team team(shared.mail);
  const bool is_sample = PW_JOB_IS_SAMPLE(job), is_first = team.rank == 0 && threadIdx.x == 0;
  const Slot slot = {op.state, job.slot};
  const bool is_adjusted = is_sample && slot.adjusts(job.argument);
  const bool is_scored = !is_sample || slot.params().num_top >= 0;

  float* logits = op.logits + int64_t(row) * vocab_size;
  const Part source(logits, vocab_size, part_len, team.rank);
  Part part = source;
  if (HELD) part.logits = reinterpret_cast<float*>(held);
  if (!HELD && is_adjusted) part.logits = static_cast<float*>(op.scratch) + int64_t(row) * vocab_size + part.first;
  const bool is_read_again = is_adjusted || is_scored || slot.params().temperature != 0.0f;
  Scan scan = read_row(source, part.logits != source.logits && is_read_again ? part.logits : nullptr);
  team.wait_for_all();
  const Extremes raw = agree(team, shared.warps, scan);

  Extremes adjusted = raw;
  if (is_adjusted && !raw.is_faulty) {
    adjust(part, slot, job.argument);
    scan = {};
    for_each<HELD>(part, [&](float logit, uint32_t id) { scan.see(logit, id); });
    adjusted = agree(team, shared.warps, scan);
    // Other tokens may be at minus infinity.
    adjusted.min = raw.min;
  }
  PwSampleResult result = {is_sample ? 0 : job.argument, PW_FAULT_NONE, 0.0f, 0, 0, {}};
  if (raw.is_faulty || !(fabsf(adjusted.max()) < INFINITY)) {
    result.fault = PW_FAULT_NON_FINITE;
    if (is_first) op.results[row] = result;
    return;
  }

  if (is_sample) {
    result.token = int32_t(choose<HELD>(team, shared, part, adjusted, slot.params(), job.argument, vocab_size));
    if (is_first) op.state.last_sampled[job.slot] = result.token;
    if (team.rank == 0 && slot.has_history()) remember(slot, uint32_t(result.token));
  }
  if (is_scored) {
    // Of the model's own logits.
    if (HELD && is_adjusted) read_row(source, part.logits);
    if (!HELD) part.logits = source.logits;
    const float target = logits[result.token];
    const Score scored = score<HELD>(team, shared.warps, part, raw.max(), target);
    result.logprob = scored.logprob(target);
    result.rank = scored.num_more_likely + 1;
    result.num_top = min(min(is_sample ? slot.params().num_top : job.num_top, op.max_top), vocab_size);
    if (result.num_top > 0) {
      list_top<HELD>(team, shared.selection, part, bins_over(raw.max(), raw.min), scored, result.num_top,
                     op.top + int64_t(row) * op.max_top);
    }
  }
  if (is_first) op.results[row] = result;
}

// Of shared memory beside what the kernel takes for itself.
constexpr int kMaxHeldBytes = 192 * 1024;

}  // namespace

Plan plan_of(int vocab_size, int team, bool is_held) {
  const int part_len = int(div_up(div_up(vocab_size, team), kAccess)) * kAccess;
  return {team, part_len, is_held && part_len * int(sizeof(float)) <= kMaxHeldBytes};
}

Plan plan_of(int vocab_size) {
  const bool has_clusters = is_hopper_code(reinterpret_cast<const void*>(&sample<true>));
  return plan_of(vocab_size, has_clusters ? kTeam : 1, has_clusters);
}

int64_t scratch_bytes(const Plan& plan, int rows, int vocab_size) {
  return plan.is_held ? 0 : int64_t(rows) * vocab_size * int64_t(sizeof(float));
}

PwStatus launch(const PwSample& op, const Plan& plan, PwStream stream) {
  const auto kernel = plan.is_held ? sample<true> : sample<false>;
  const int shared_bytes = plan.is_held ? plan.part_len * int(sizeof(float)) : 0;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (error != cudaSuccess) return error;
  const Grid grid = {dim3(unsigned(op.rows * plan.team)), dim3(kThreads), plan.team, shared_bytes};
  return launch_dependent(kernel, grid, stream, op, plan.part_len);
}

}  // namespace pw::sampling

extern "C" PwStatus pw_sample(const PwSample* op, PwStream stream) {
  using namespace pw::sampling;
  const int vocab_size = op->state.vocab_size;
  if (op->rows < 0 || op->rows > INT32_MAX / kTeam || vocab_size <= 0 || vocab_size > kMaxVocab) return PW_INVALID;
  if (op->max_top < 0 || op->max_top > kListLen || op->state.max_history < 0) return PW_INVALID;
  if (!pw::are_aligned(op->logits, op->scratch)) return PW_INVALID;
  if (op->rows == 0) return PW_OK;
  return launch(*op, plan_of(vocab_size), stream);
}

extern "C" int64_t pw_sample_scratch_bytes(int32_t rows, int32_t vocab_size) {
  using namespace pw::sampling;
  if (rows < 0 || vocab_size <= 0) return 0;
  return scratch_bytes(plan_of(vocab_size), rows, vocab_size);
}
