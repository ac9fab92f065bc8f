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

// Top-k: every token counts as one.
struct Counting {
  int count;

  __device__ double goal(double) const { return double(count); }
  __device__ float weight(float) const { return 1.0f; }
  __device__ bool is_cut_bin(int) const { return true; }
  __device__ uint32_t units(float, int) const { return 1; }
  __device__ double amount(uint64_t units, int) const { return double(units); }
  __device__ int most_tokens(uint64_t units, int) const { return int(units); }
};

// Top-p: every token counts with its weight, of which a share is the goal.
struct Weighing {
  Weigher weigher;
  double share;

  // Width of a bin in units of the temperature.
  static constexpr float kWidth = 1.0f / 64.0f;

  __device__ double goal(double total) const { return share * total; }
  __device__ float weight(float logit) const { return weigher(logit); }

  // The last bin takes all that is below e^-31.98. A million such tokens weigh less than the share that a top_p below 1
  // leaves out, so the cut is never there.
  __device__ bool is_cut_bin(int bin) const { return bin < kBins - 1; }

  // Weights in the bin are below 1.02 * 2^(1 - e) and not below 2^-e for this e.
  static __device__ int exponent(int bin) { return int(float(bin + 1) * (kWidth * 1.44269504f)) + 1; }
  // The weight with its last bit shifted to the ones: below 1.02 * 2^24.
  __device__ uint32_t units(float weight, int bin) const {
    return __float2uint_rz(weight * __uint_as_float(uint32_t(127 + 23 + exponent(bin)) << 23));
  }
  __device__ double amount(uint64_t units, int bin) const {
    return double(units) * __hiloint2double((1023 - 23 - exponent(bin)) << 20, 0);
  }
  __device__ int most_tokens(uint64_t sum, int bin) const {
    const float smallest = 0.999f * __expf(-float(bin + 1) * kWidth);
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

// Where the running sum reaches the goal.
struct CutBin {
  int bin;
  // The sum over the bins before, and the bin's own
  double before;
  uint64_t units;
  // Of what the threads brought beside the bins
  double total;
};
constexpr int kNoBin = kBins;

__device__ inline void clear(Selection& selection) {
  for (int i = threadIdx.x; i < 2 * kBins; i += kThreads) selection.histogram[0][i] = 0;
  if (threadIdx.x == 0) selection.list_len = 0, selection.kept_len = 0, selection.first_bin = kNoBin;
  __syncthreads();
}

__device__ inline void add_units(Selection& selection, int bin, uint32_t units) {
  if (units >> kLowBits != 0) atomicAdd(&selection.histogram[0][bin], units >> kLowBits);
  if (units % (1u << kLowBits) != 0) atomicAdd(&selection.histogram[1][bin], units % (1u << kLowBits));
}

// After all blocks filled their histograms. Each of them adds up a slice of the bins over all blocks. `amount(units, bin)` is
// what units in a bin stand for, and `reaches(after, total)` whether the sum up to a bin's end reaches the goal, where `total`
// is the sum over the team of `thread_sum`.
template <class Amount, class Reaches>
__device__ __noinline__ CutBin find_bin(Team& team, Selection& selection, double thread_sum, Amount&& amount,
                                        Reaches&& reaches) {
  constexpr int kMaxPerThread = kBins / kThreads;
  const int slice = kBins / team.size, per_thread = slice <= kThreads ? 1 : kMaxPerThread;
  const int in_slice = int(threadIdx.x) * per_thread, first = team.rank * slice + in_slice;
  const int num = in_slice < slice ? per_thread : 0;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  team.barrier();

  uint64_t units[kMaxPerThread];
  double mine = 0.0;
#pragma unroll
  for (int i = 0; i < kMaxPerThread; ++i) {
    units[i] = 0;
    for (int from = 0; i < num && from < team.size; ++from) {
      const uint32_t* high = in_block(&selection.histogram[0][first + i], from);
      units[i] += (uint64_t(high[0]) << kLowBits) + high[kBins];
    }
    if (i < num) mine += amount(units[i], first + i);
  }
  const double prefix = warp_prefix(mine), warp_total = warp_sum(thread_sum);
  if (lane == kWarp - 1) selection.warp_sums[0][warp] = prefix, selection.warp_sums[1][warp] = warp_total;
  __syncthreads();
  double slice_sum = 0.0, before = 0.0, total = 0.0;
  for (int i = 0; i < kWarps; ++i) {
    if (i == warp) before = slice_sum;
    slice_sum += selection.warp_sums[0][i];
    total += selection.warp_sums[1][i];
  }
  if (warp == 0) team.send_by_warp(word_of(slice_sum), word_of(total));
  team.exchange();
  before += prefix - mine;
  total = 0.0;
  for (int from = 0; from < team.size; ++from) {
    if (from < team.rank) before += double_of(team.received(from, 0));
    total += double_of(team.received(from, 1));
  }

  CutBin cut = {kNoBin, 0.0, 0, total};
#pragma unroll
  for (int i = 0; i < kMaxPerThread; ++i) {
    if (i >= num || cut.bin != kNoBin) continue;
    const double after = before + amount(units[i], first + i);
    if (units[i] != 0 && reaches(after, total)) cut = {first + i, before, units[i], total};
    before = after;
  }
  if (cut.bin != kNoBin) atomicMin(&selection.first_bin, uint32_t(cut.bin));
  __syncthreads();
  // The thread that has the block's first such bin tells of it, or any if there is none.
  const bool is_speaker = selection.first_bin == kNoBin ? threadIdx.x == 0 : selection.first_bin == uint32_t(cut.bin);
  if (is_speaker) team.send_by_thread(uint64_t(cut.bin), word_of(cut.before), cut.units);
  team.exchange();
  for (int from = 0; from < team.size; ++from) {
    cut = {int(team.received(from, 0)), double_of(team.received(from, 1)), team.received(from, 2), total};
    if (cut.bin != kNoBin) break;
  }
  return cut;
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

// In the first block: the first of the listed tokens at which the goal is reached; else `lowest`.
template <class Measure, class Reaches>
__device__ void cut_list(Selection& selection, const Measure& measure, int bin, uint64_t lowest, Reaches&& reaches) {
  const int len = min(selection.list_len, uint32_t(kListLen)), mine = threadIdx.x;
  if (threadIdx.x == 0) selection.cut = lowest;
  if (mine < len) selection.list_units[mine] = measure.units(measure.weight(logit_at(selection.list[mine])), bin);
  __syncthreads();
  if (mine < len) {
    const uint64_t place = selection.list[mine];
    uint64_t units = 0;
    for (int i = 0; i < len; ++i) units += selection.list[i] >= place ? selection.list_units[i] : 0;
    if (reaches(measure.amount(units, bin))) {
      atomicMax(reinterpret_cast<unsigned long long*>(&selection.cut), static_cast<unsigned long long>(place));
    }
  }
  __syncthreads();
}

// The limit of the shortest prefix of those tokens that `limit` keeps whose measure reaches the goal; `limit` itself if it
// never does.
template <bool HELD, class Measure>
__device__ __noinline__ Limit select(Team& team, Selection& selection, const Part& part, const Bins& bins,
                                     const Measure& measure, Limit limit) {
  clear(selection);
  double sum = 0.0;
  for_each<HELD>(part, [&](float logit, uint32_t id) {
    if (!limit.keeps(logit, id)) return;
    const int bin = bins.of(logit);
    const float weight = measure.weight(logit);
    sum += double(weight);
    if (measure.is_cut_bin(bin)) add_units(selection, bin, measure.units(weight, bin));
  });
  CutBin cut = find_bin(
      team, selection, sum, [&](uint64_t units, int bin) { return measure.amount(units, bin); },
      [&](double after, double total) { return after >= measure.goal(total); });
  if (cut.bin == kNoBin) return limit;

  // Sums in the bin are exact, and added once to the sum before it.
  const int bin = cut.bin;
  const double before = cut.before, goal = measure.goal(cut.total);
  double inside = 0.0;
  const auto reaches = [&](double after) { return before + (inside + after) >= goal; };
  PlaceRange range = PlaceRange::of_bin(bins, bin);
  const auto for_each_left = [&](auto&& f) {
    for_each<HELD>(part, [&](float logit, uint32_t id) {
      if (bins.of(logit) != bin || !limit.keeps(logit, id)) return;
      const uint64_t place = place_of(logit, id);
      if (range.has(place)) f(place);
    });
  };
  while (measure.most_tokens(cut.units, bin) > kListLen) {
    clear(selection);
    for_each_left([&](uint64_t place) {
      add_units(selection, range.digit_of(place), measure.units(measure.weight(logit_at(place)), bin));
    });
    cut = find_bin(
        team, selection, 0.0, [&](uint64_t units, int) { return measure.amount(units, bin); },
        [&](double after, double) { return reaches(after); });
    range = range.narrowed(cut.bin);
    inside += cut.before;
  }

  for_each_left([&](uint64_t place) {
    const uint32_t at = atomicAdd(in_block(&selection.list_len, 0), 1u);
    if (at < kListLen) in_block(selection.list, 0)[at] = place;
  });
  team.barrier();
  if (team.rank == 0) {
    cut_list(selection, measure, bin, range.low, reaches);
    if (threadIdx.x < kWarp) team.send_by_warp(selection.cut);
  }
  team.exchange();
  return Limit::at(team.received(0, 0));
}

}  // namespace pw::sampling
