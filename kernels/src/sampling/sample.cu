// Sampling and scoring: a team of blocks for each row, which reads the row once and keeps it in its shared memory, so that
// what filters and scores read again and again costs no memory traffic. Teams stay: while they work on one row, the next
// ones are on their way. What a row needs is read from its job and its slot, so one captured launch serves all.
#include "common/block_ring.cuh"
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
  ExtremeWords extremes;
  DrawWords draw;
  ScoreWords score;
  Selection selection;
  // Of each stage
  PwLogitJob jobs[kMaxStages];
  alignas(kAccessBytes) PwSlotParams params[kMaxStages];
  uint64_t arrivals[kMaxStages];
};

// The uniform number in [0, 1) behind a draw: see `uniform` in crates/sampling/src/random.rs.
__device__ double uniform(const PwSlotParams& params, int output_position) {
  const uint4 counter = make_uint4(uint32_t(output_position), params.sample_index, 0, 0);
  const uint4 words = philox4x32_10(counter, make_uint2(uint32_t(params.seed), uint32_t(params.seed >> 32)));
  return double((uint64_t(words.x) << 32 | words.y) >> 11) * 0x1p-53;
}

// The token, from the adjusted logits of the part.
template <bool HELD>
__device__ __forceinline__ uint32_t choose(Team& team, Shared& shared, const Part& part, const Extremes& extremes,
                                           const PwSlotParams& params, int output_position, int vocab_size) {
  if (params.temperature == 0.0f) return extremes.id;
  const Weigher weigher(extremes.max(), params.temperature);
  Limit limit = Limit::none();
  const bool has_top_k = params.top_k > 0 && params.top_k < vocab_size, has_top_p = params.top_p < 1.0f;
  // One after the other, by the same code.
  for (int filter = has_top_k ? 0 : 1; filter < (has_top_p ? 2 : 1); ++filter) {
    const Measure measure = filter == 0 ? Measure::of_tokens(extremes, params.top_k)
                                        : Measure::of_weight(weigher, params.top_p, vocab_size);
    limit = select<HELD>(team, shared.selection, part, measure, limit);
  }
  return take<HELD>(team, shared.draw, part, {weigher, limit, params.min_p, uniform(params, output_position)});
}

// A row that the team is to finish.
struct Row {
  int index;
  PwLogitJob job;
  const PwSlotParams& params;
  // The model's logits in memory, and where they may be changed
  Part source;
  Part part;
};

template <bool HELD>
__device__ __forceinline__ void finish(Team& team, Shared& shared, const PwSample& op, const Row& row) {
  const int vocab_size = op.state.vocab_size;
  const PwLogitJob& job = row.job;
  const bool is_sample = PW_JOB_IS_SAMPLE(job), is_first = team.rank == 0 && threadIdx.x == 0;
  const Slot slot = {op.state, job.slot, row.params};
  const bool is_adjusted = is_sample && slot.adjusts(job.argument);
  const bool is_scored = !is_sample || row.params.num_top >= 0;

  const Part& raw_part = HELD ? row.part : row.source;
  const Extremes raw = find_extremes<HELD>(team, shared.extremes, raw_part);
  Extremes adjusted = raw;
  if (is_adjusted && raw.are_finite()) {
    if (!HELD) copy_segment<HELD>(row.source, row.part.logits);
    adjust(row.part, slot, job.argument);
    adjusted = find_extremes<HELD>(team, shared.extremes, row.part);
    // Others may be at minus infinity.
    adjusted.min_key = raw.min_key;
  }
  PwSampleResult result = {is_sample ? 0 : job.argument, PW_FAULT_NONE, 0.0f, 0, 0, {}};
  if (!raw.are_finite() || !(fabsf(adjusted.max()) < INFINITY)) {
    result.fault = PW_FAULT_NON_FINITE;
    if (is_first) op.results[row.index] = result;
    return;
  }

  if (is_sample) {
    const Part& part = HELD || is_adjusted ? row.part : row.source;
    result.token = int32_t(choose<HELD>(team, shared, part, adjusted, row.params, job.argument, vocab_size));
    if (is_first) op.state.last_sampled[job.slot] = result.token;
    if (team.rank == 0 && slot.has_history()) remember(slot, uint32_t(result.token));
  }
  if (is_scored) {
    // Of the model's own logits.
    if (HELD && is_adjusted) copy_segment<HELD>(row.source, row.part.logits);
    const float target = __ldcg(row.source.logits + (result.token - row.source.first));
    const Score scored = score<HELD>(team, shared.score, raw_part, raw.max(), target);
    result.logprob = scored.logprob(target);
    result.rank = scored.num_more_likely + 1;
    result.num_top = min(min(is_sample ? row.params.num_top : job.num_top, op.max_top), vocab_size);
    if (result.num_top > 0) {
      list_top<HELD>(team, shared.selection, raw_part, raw, scored, result.num_top, op.top + int64_t(row.index) * op.max_top);
    }
  }
  if (is_first) op.results[row.index] = result;
}

// Rows of a team: number `turn` is row `first + turn * step`.
struct Turns {
  int first;
  int step;
  int num;

  __device__ Turns(int rows, int team_size) : first(blockIdx.x / team_size), step(gridDim.x / team_size) {
    num = first < rows ? (rows - first - 1) / step + 1 : 0;
  }
  __device__ int row(int turn) const { return first + turn * step; }
};

// Rows come into shared memory some turns before it is theirs.
class Stages {
 public:
  __device__ Stages(Shared& shared, float* logits, const PwSample& op, const Plan& plan, const Part& part, Turns turns)
      : shared_(shared), logits_(logits), op_(op), plan_(plan), part_(part), turns_(turns),
        ring_(shared.arrivals, plan.stages) {}

  // Of one thread. The turn's stage is free.
  __device__ void fetch(int turn, const PwLogitJob& job) {
    const int stage = ring_.stage_of(turn);
    shared_.jobs[stage] = job;
    const bool is_padding = job.token_index < 0;
    const int logit_bytes = is_padding ? 0 : part_.len * int(sizeof(float));
    const int param_bytes = is_padding ? 0 : int(sizeof(PwSlotParams));
    ring_.expect(turn, logit_bytes + param_bytes);
    if (logit_bytes > 0) ring_.copy(turn, place(stage), source(turn), logit_bytes);
    if (param_bytes > 0) ring_.copy(turn, &shared_.params[stage], op_.state.params + job.slot, param_bytes);
  }

  // Of every thread: the row that has come.
  __device__ Row wait(int turn) const {
    ring_.wait(turn);
    const int stage = ring_.stage_of(turn);
    return {turns_.row(turn), shared_.jobs[stage], shared_.params[stage], part_.at(source(turn)), part_.at(place(stage))};
  }

  __device__ void give_back() const { ring_.give_back(); }

 private:
  __device__ float* place(int stage) const { return logits_ + stage * plan_.part_len; }
  __device__ float* source(int turn) const {
    return op_.logits + int64_t(turns_.row(turn)) * op_.state.vocab_size + part_.first;
  }

  Shared& shared_;
  float* logits_;
  const PwSample& op_;
  const Plan& plan_;
  const Part part_;
  const Turns turns_;
  BlockRing ring_;
};

__device__ __forceinline__ void finish_held(Team& team, Shared& shared, const PwSample& op, const Plan& plan, const Part& part,
                                            const Turns& turns) {
  extern __shared__ float4 held[];
  Stages stages(shared, reinterpret_cast<float*>(held), op, plan, part, turns);
  if (threadIdx.x == 0) {
    for (int turn = 0; turn < min(turns.num, plan.stages); ++turn) stages.fetch(turn, op.jobs[turns.row(turn)]);
  }
  __syncthreads();
  for (int turn = 0; turn < turns.num; ++turn) {
    // Asked for early, so that nobody waits for it.
    PwLogitJob coming;
    const bool fetches = threadIdx.x == 0 && turn + plan.stages < turns.num;
    if (fetches) coming = op.jobs[turns.row(turn + plan.stages)];
    const Row row = stages.wait(turn);
    if (row.job.token_index >= 0) finish<true>(team, shared, op, row);
    stages.give_back();
    if (fetches) stages.fetch(turn + plan.stages, coming);
  }
}

__device__ __forceinline__ void finish_in_place(Team& team, Shared& shared, const PwSample& op, const Part& part,
                                                const Turns& turns) {
  for (int turn = 0; turn < turns.num; ++turn) {
    const int index = turns.row(turn);
    const PwLogitJob job = op.jobs[index];
    if (job.token_index < 0) continue;
    const int64_t place = int64_t(index) * op.state.vocab_size + part.first;
    float* scratch = static_cast<float*>(op.scratch) + place;
    const Row row = {index, job, op.state.params[job.slot], part.at(op.logits + place), part.at(scratch)};
    finish<false>(team, shared, op, row);
    __syncthreads();
  }
}

template <bool HELD>
__global__ void __launch_bounds__(kThreads, 1) sample(const __grid_constant__ PwSample op, const __grid_constant__ Plan plan) {
  __shared__ Shared shared;
  Team team(shared.mail);
  const Part part(op.state.vocab_size, plan.part_len, team.rank);
  const Turns turns(op.rows, team.size);
  wait_for_previous();
  let_next_start();
  team.wait_for_all();
  if constexpr (HELD) {
    finish_held(team, shared, op, plan, part, turns);
  } else {
    finish_in_place(team, shared, op, part, turns);
  }
}

// Of shared memory beside what the kernel takes for itself.
constexpr int kMaxHeldBytes = 200 * 1024;

// Teams that the device at hand runs at the same time: a row that waits for a second round costs as much as all others.
int resident_teams(const void* kernel, int team, int shared_bytes) {
  int device = 0, multiprocessors = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) return 1;
  if (team == 1) return multiprocessors;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = unsigned(team), cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(unsigned(team)), config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = size_t(shared_bytes);
  config.attrs = &cluster, config.numAttrs = 1;
  int teams = 0;
  const cudaError_t error = cudaOccupancyMaxActiveClusters(&teams, kernel, &config);
  return error == cudaSuccess && teams > 0 ? teams : 1;
}

}  // namespace

Plan plan_of(int vocab_size, int team, int max_stages) {
  const int part_len = int(div_up(div_up(vocab_size, team), kAccess)) * kAccess, part_bytes = part_len * int(sizeof(float));
  // Rows that no access of 16 bytes can begin at stay where they are.
  const int stages = vocab_size % kAccess == 0 ? min(max_stages, kMaxHeldBytes / part_bytes) : 0;
  const void* in_place = reinterpret_cast<const void*>(&sample<false>);
  if (stages == 0) return {team, part_len, 0, resident_teams(in_place, team, 0)};
  const void* held = reinterpret_cast<const void*>(&sample<true>);
  cudaFuncSetAttribute(held, cudaFuncAttributeMaxDynamicSharedMemorySize, kMaxHeldBytes);
  return {team, part_len, stages, resident_teams(held, team, stages * part_bytes)};
}

namespace {

// For a vocabulary on a device: the questions cost as much as a launch, so they are asked once.
struct Plans {
  int vocab_size;
  int device;
  // With 1, 2, 4 and 8 blocks a team; those before the first would have too long a part
  Plan of_team[4];
  int first;
};

Plans plans_of(int vocab_size, int device) {
  Plans plans = {vocab_size, device, {}, 0};
  const bool has_clusters = is_hopper_code(reinterpret_cast<const void*>(&sample<true>));
  for (int i = 0; i < 4; ++i) {
    plans.of_team[i] = plan_of(vocab_size, has_clusters ? 1 << i : 1, has_clusters ? kMaxStages : 0);
    if (plans.of_team[i].part_len > kMaxPartLen && i < 3 && has_clusters) plans.first = i + 1;
  }
  return plans;
}

}  // namespace

// The more rows, the fewer blocks for each: blocks wait for each other, rows do not.
Plan plan_of(int vocab_size, int rows) {
  static thread_local Plans known = {};
  int device = 0;
  cudaGetDevice(&device);
  if (known.vocab_size != vocab_size || known.device != device) known = plans_of(vocab_size, device);
  int i = known.first;
  while (i < 3 && rows <= known.of_team[i + 1].teams) i += 1;
  return known.of_team[i];
}

int64_t scratch_bytes(const Plan& plan, int rows, int vocab_size) {
  return plan.stages > 0 ? 0 : int64_t(rows) * vocab_size * int64_t(sizeof(float));
}

PwStatus launch(const PwSample& op, const Plan& plan, PwStream stream) {
  const auto kernel = plan.stages > 0 ? sample<true> : sample<false>;
  const int shared_bytes = plan.stages * plan.part_len * int(sizeof(float));
  const Grid grid = {dim3(unsigned(min(op.rows, plan.teams) * plan.team)), dim3(kThreads), plan.team, shared_bytes};
  return launch_dependent(kernel, grid, stream, op, plan);
}

}  // namespace pw::sampling

extern "C" PwStatus pw_sample(const PwSample* op, PwStream stream) {
  using namespace pw::sampling;
  const int vocab_size = op->state.vocab_size;
  if (op->rows < 0 || vocab_size <= 0 || vocab_size > kMaxVocab) return PW_INVALID;
  if (op->max_top < 0 || op->max_top > kListLen || op->state.max_history < 0) return PW_INVALID;
  if (!pw::are_aligned(op->logits, op->scratch, op->state.params)) return PW_INVALID;
  if (op->rows == 0) return PW_OK;
  return launch(*op, plan_of(vocab_size, op->rows), stream);
}

extern "C" int64_t pw_sample_scratch_bytes(int32_t rows, int32_t vocab_size) {
  using namespace pw::sampling;
  if (rows < 0 || vocab_size <= 0) return 0;
  return scratch_bytes(plan_of(vocab_size, rows), rows, vocab_size);
}
