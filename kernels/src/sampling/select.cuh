// Where the rank order is cut: at the first token at which the running sum of a measure reaches a goal. The measure is 1 for
// top-k and the weight for top-p. No sort: a histogram over the distance to the largest logit tells in which bin the cut
// falls; the few tokens of that bin are gathered in one block, and each of them adds up what is before it. Where a bin holds
// many (equal logits do), it is divided again, now by place, until few are left.
//
// All sums in bins and lists are integers, so they are exact and no order of atomic operations shows in a result: the weights
// in one bin differ by less than two powers of two, so that a scale of the bin turns them into integers of 25 bits without
// rounding.
#pragma once

#include "sampling/part.cuh"
#include "sampling/weight.cuh"

namespace pw::sampling {

// Bins over the distance to the largest logit: a function that never rises as logits rise.
struct Bins {
  float max;
  float per_unit;

  __device__ int of(float logit) const {
    // Beyond all bins, and where it is infinite, the conversion saturates.
    return min(__float2int_rz(__fmul_rn(__fsub_rn(max, logit), per_unit)), kBins - 1);
  }
};

// What is summed, and how far.
struct Measure {
  // Each token's weight, or 1
  bool is_weight;
  // A count, or a share of the total
  double amount_wanted;
  Weigher weigher;
  // The cut is not below, and not in a bin from this on
  float lowest;
  int num_cut_bins;
  Bins bins;

  // Width of a bin of weights in units of the temperature.
  static constexpr float kWidth = 1.0f / 64.0f;

  static __device__ Measure of_tokens(const Extremes& extremes, int count) {
    // That many segments have a logit not below the floor.
    const bool has_floor = uint32_t(count) <= extremes.num_segments;
    const float floor = logit_of(extremes.floor_key);
    const float span = extremes.max() - (has_floor && floor > -INFINITY ? floor : extremes.min());
    const Bins bins = {extremes.max(), float(kBins - 1) / (span > 0.0f ? span : 1.0f)};
    return {false, double(count), Weigher(0.0f, 1.0f), has_floor ? floor : -INFINITY, kBins, bins};
  }

  static __device__ Measure of_weight(const Weigher& weigher, float share, int vocab_size) {
    // Tokens below the mean of the weight that may be missing cannot make up all of it. Half of that mean, because roundings
    // differ; of a total of 1, because it is not less. At most 31.1 / kWidth, for a million tokens and the largest share.
    const float bound = 0.5f * float(1.0 - double(share)) / float(vocab_size);
    const int num_cut_bins = min(int(-__logf(bound) / kWidth) + 2, kBins - 1);
    return {true, double(share), weigher, -INFINITY, num_cut_bins, {weigher.max, 1.0f / (kWidth * weigher.temperature)}};
  }

  __device__ double goal(double total) const { return is_weight ? amount_wanted * total : amount_wanted; }
  __device__ float weight(float logit) const { return is_weight ? weigher(logit) : 1.0f; }
  // Of neighbours at the same time: one branch for all.
  template <int N>
  __device__ void weigh(const float (&logits)[N], float (&weights)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) weights[i] = 1.0f;
    if (!is_weight) return;
#pragma unroll
    for (int i = 0; i < N; ++i) weights[i] = weigher(logits[i]);
  }

  // Weights in the bin are below 1.02 * 2^(1 - e) and not below 2^-e for e = scale - 23.
  __device__ int scale(int bin) const { return is_weight ? int(float(bin + 1) * (kWidth * 1.44269504f)) + 24 : 0; }
  // The weight with its last bit shifted to the ones: below 1.02 * 2^24.
  __device__ uint32_t units(float weight, int bin) const {
    return __float2uint_rz(weight * __uint_as_float(uint32_t(127 + scale(bin)) << 23));
  }
  __device__ double amount(uint64_t units, int bin) const {
    return double(units) * __hiloint2double((1023 - scale(bin)) << 20, 0);
  }
  __device__ int most_tokens(uint64_t sum, int bin) const {
    const float smallest = is_weight ? 0.999f * __expf(-float(bin + 1) * kWidth) : 1.0f;
    return int(sum / units(smallest, bin));
  }
};

// In shared memory.
struct Selection {
  // Sums of units, the upper and the lower bits apart: kMaxVocab tokens of 1.02 * 2^24 units overflow neither.
  uint32_t histogram[2][kBins];
  // Of the first block: the tokens of the cut bin, and their units
  uint64_t list[kListLen];
  uint32_t list_units[kListLen];
  uint32_t list_len;
  uint32_t kept_len;
  uint32_t first_bin;
  uint64_t cut;
  double warp_sums[2][kWarps];
};
constexpr int kLowBits = 12;

__device__ inline void clear(Selection& selection) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) selection.histogram[0][i] = selection.histogram[1][i] = 0;
  if (threadIdx.x == 0) selection.list_len = 0, selection.kept_len = 0, selection.first_bin = kBins;
  __syncthreads();
}

__device__ inline void add_units(Selection& selection, int bin, uint32_t units) {
  if (units >> kLowBits != 0) atomicAdd(&selection.histogram[0][bin], units >> kLowBits);
  if (units % (1u << kLowBits) != 0) atomicAdd(&selection.histogram[1][bin], units % (1u << kLowBits));
}

// Of a bin over all blocks.
__device__ inline uint64_t sum_of_bin(const Team& team, Selection& selection, int bin) {
  uint64_t sum = 0;
#pragma unroll
  for (int from = 0; from < kMaxTeam; ++from) {
    if (from >= team.size) continue;
    const uint32_t high = *in_block(&selection.histogram[0][bin], from);
    sum += (uint64_t(high) << kLowBits) + *in_block(&selection.histogram[1][bin], from);
  }
  return sum;
}

// Places from `low` to `high`, both included.
struct PlaceRange {
  uint64_t low;
  uint64_t high;

  // All that can be in a bin, with a margin for the roundings of `Bins::of`.
  static __device__ PlaceRange of_bin(const Bins& bins, int bin) {
    constexpr double kMargin = 1e-6;
    const double width = 1.0 / double(bins.per_unit), max = double(bins.max);
    const float above = __double2float_ru(max - bin * width * (1.0 - kMargin));
    const float below = __double2float_rd(max - (bin + 1) * width * (1.0 + kMargin));
    return {place_of(bin == kBins - 1 ? -INFINITY : below, kMaxId), place_of(bin == 0 ? bins.max : above, 0)};
  }

  __device__ bool has(uint64_t place) const { return place >= low && place <= high; }

  // So that the range divides into at most kBins.
  __device__ int shift() const { return max(0, 64 - __clzll(int64_t(high - low)) - 11); }
  static_assert(kBins == 1 << 11, "a digit has 11 bits");

  __device__ int digit_of(uint64_t place) const { return int((high - place) >> shift()); }
  __device__ PlaceRange narrowed(int digit) const {
    const uint64_t size = uint64_t(1) << shift(), top = high - uint64_t(digit) * size;
    const uint64_t bottom = top - (size - 1);
    return {top < size || bottom < low ? low : bottom, top};
  }
};

// What is known of the cut.
struct Cut {
  double goal;
  // The bin it is in, or none yet; and the sum over the bins before
  int bin = -1;
  double before = 0.0;
  // Once the bin was divided: places that are left, and the exact sum over those before them in the bin
  PlaceRange range = {};
  double inside = 0.0;
  // Of the bin or of the places that are left; 0: the goal is never reached
  uint64_t units = 0;

  // Sums in the bin are exact, and added once to the sum before it.
  __device__ bool is_reached(double after) const { return before + (inside + after) >= goal; }
};

// After all blocks filled their histograms, with bins or with digits of the places that are left: where among them the cut is.
// Each block adds up a slice of the bins. `thread_sum` adds up to the total on which the goal depends.
__device__ __forceinline__ void narrow(Team& team, Selection& selection, const Measure& measure, double thread_sum, Cut& cut) {
  constexpr int kMaxPerThread = kBins / kThreads;
  const int slice = kBins / team.size, per_thread = slice <= kThreads ? 1 : kMaxPerThread;
  const int in_slice = int(threadIdx.x) * per_thread, first = team.rank * slice + in_slice;
  const int num = in_slice < slice ? per_thread : 0;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const auto amount = [&](uint64_t units, int bin) { return measure.amount(units, cut.bin < 0 ? bin : cut.bin); };
  team.barrier();

  uint64_t units[kMaxPerThread] = {};
  double mine = 0.0;
#pragma unroll
  for (int i = 0; i < kMaxPerThread; ++i) {
    if (i >= num) continue;
    units[i] = sum_of_bin(team, selection, first + i);
    mine += amount(units[i], first + i);
  }
  const double prefix = warp_prefix(mine), warp_total = warp_sum(thread_sum);
  if (lane == kWarp - 1) selection.warp_sums[0][warp] = prefix, selection.warp_sums[1][warp] = warp_total;
  __syncthreads();
  const double of_warp = lane < kWarps ? selection.warp_sums[0][lane] : 0.0, up_to_warp = warp_prefix(of_warp);
  const double before_warp = __shfl_sync(kAllLanes, up_to_warp - of_warp, warp);
  if (warp == 0) {
    const double brought = lane < kWarps ? selection.warp_sums[1][lane] : 0.0;
    team.send_by_warp(word_of(warp_sum(of_warp)), word_of(warp_sum(brought)));
  }
  team.exchange();
  const double of_block = lane < team.size ? double_of(team.received(lane, 0)) : 0.0;
  if (cut.bin < 0) cut.goal = measure.goal(warp_sum(lane < team.size ? double_of(team.received(lane, 1)) : 0.0));
  double before = warp_sum(lane < team.rank ? of_block : 0.0) + before_warp + (prefix - mine);

  int bin = kBins;
  double before_bin = 0.0;
  uint64_t bin_units = 0;
#pragma unroll
  for (int i = 0; i < kMaxPerThread; ++i) {
    if (i >= num || bin < kBins) continue;
    const double after = before + amount(units[i], first + i);
    if (units[i] != 0 && cut.is_reached(after)) bin = first + i, before_bin = before, bin_units = units[i];
    before = after;
  }
  if (bin < kBins) atomicMin(&selection.first_bin, uint32_t(bin));
  __syncthreads();
  // The thread that has the block's first such bin tells of it, or any if there is none.
  const bool is_speaker = selection.first_bin == kBins ? threadIdx.x == 0 : selection.first_bin == uint32_t(bin);
  if (is_speaker) team.send_by_thread(bin, word_of(before_bin), bin_units);
  team.exchange();
  for (int from = 0; from < team.size; ++from) {
    bin = int(team.received(from, 0)), before_bin = double_of(team.received(from, 1)), cut.units = team.received(from, 2);
    if (bin < kBins) break;
  }
  if (cut.bin < 0) {
    cut.bin = bin, cut.before = before_bin, cut.range = PlaceRange::of_bin(measure.bins, bin);
  } else {
    cut.inside += before_bin, cut.range = cut.range.narrowed(bin);
  }
}

// In the first block: the first of the listed tokens at which the goal is reached; else the last place that is left.
__device__ __forceinline__ void cut_list(Selection& selection, const Measure& measure, const Cut& cut) {
  const int len = int(min(selection.list_len, uint32_t(kListLen))), mine = threadIdx.x;
  if (threadIdx.x == 0) selection.cut = cut.range.low;
  if (mine < len) selection.list_units[mine] = measure.units(measure.weight(logit_at(selection.list[mine])), cut.bin);
  __syncthreads();
  if (mine < len) {
    const uint64_t place = selection.list[mine];
    uint64_t units = 0;
    for (int i = 0; i < len; ++i) units += selection.list[i] >= place ? selection.list_units[i] : 0;
    if (cut.is_reached(measure.amount(units, cut.bin))) {
      atomicMax(reinterpret_cast<unsigned long long*>(&selection.cut), static_cast<unsigned long long>(place));
    }
  }
  __syncthreads();
}

// The limit of the shortest prefix of those tokens that `limit` keeps whose measure reaches the goal; `limit` itself if it
// never does.
template <bool HELD>
__device__ __forceinline__ Limit select(Team& team, Selection& selection, const Part& part, const Measure& measure,
                                        Limit limit) {
  const Bins& bins = measure.bins;
  Cut cut;
  const auto for_each_left = [&](auto&& f) {
    const float lowest = fmaxf(logit_at(cut.range.low), measure.lowest), highest = logit_at(cut.range.high);
    for_each<HELD>(part, [&](float logit, uint32_t id) {
      if (logit < lowest || logit > highest || bins.of(logit) != cut.bin || !limit.keeps(logit, id)) return;
      const uint64_t place = place_of(logit, id);
      if (cut.range.has(place)) f(place);
    });
  };
  do {
    clear(selection);
    double sum = 0.0;
    if (cut.bin < 0) {
      const float lowest = fmaxf(measure.lowest, limit.logit);
      for_each_few<HELD>(part, [&](const Few<HELD>& few, uint32_t id) {
        if (few.max() < lowest) return;
        float weights[Few<HELD>::kNum];
        measure.weigh(few.logits, weights);
#pragma unroll
        for (int i = 0; i < Few<HELD>::kNum; ++i) {
          const float logit = few.logits[i];
          const bool counts = (logit >= measure.lowest) & limit.keeps(logit, id + i);
          sum += counts ? double(weights[i]) : 0.0;
          const int bin = bins.of(logit);
          if (counts & (bin < measure.num_cut_bins)) add_units(selection, bin, measure.units(weights[i], bin));
        }
      });
    } else {
      for_each_left([&](uint64_t place) {
        add_units(selection, cut.range.digit_of(place), measure.units(measure.weight(logit_at(place)), cut.bin));
      });
    }
    narrow(team, selection, measure, sum, cut);
    if (cut.units == 0) return limit;
  } while (measure.most_tokens(cut.units, cut.bin) > kListLen);

  for_each_left([&](uint64_t place) {
    const uint32_t at = atomicAdd(in_block(&selection.list_len, 0), 1u);
    if (at < kListLen) in_block(selection.list, 0)[at] = place;
  });
  team.barrier();
  if (team.rank == 0) {
    cut_list(selection, measure, cut);
    if (threadIdx.x < kWarp) team.send_by_warp(selection.cut);
  }
  team.exchange();
  return Limit::at(team.received(0, 0));
}

}  // namespace pw::sampling
