//! How far running requests will still grow before some of them end, and so how many may run together without any being
//! preempted. Knows lengths and numbers of blocks, not whose they are.
//!
//! All requests that decode gain a token a step. So the one that ends next returns its blocks when each of the others has
//! gained as many tokens as it had left, and the pool is fullest just before one of these ends. The same idea, with sampled
//! lengths, is the Past-Future scheduler's (Gong et al., ASPLOS 2025).

/// Weight of the newest output in a mean: one in so many.
const INVERSE_WEIGHT: u32 = 16;

/// A whole, in the fixed-point shares below: fine enough for a context of millions of tokens.
const WHOLE: u32 = 1 << 16;

/// How much of what they might have generated outputs that ended lately did generate. Apart for limits of each power of two:
/// those who ask for a few tokens want just these, those who ask for thousands want an end.
#[derive(Clone, Debug)]
pub(crate) struct OutputLengths {
    /// What an output is taken to become before any under such a limit has ended.
    expected_tokens: u32,
    mean_shares: [Option<u32>; 32],
}

impl OutputLengths {
    pub(crate) fn new(expected_tokens: u32) -> Self {
        Self { expected_tokens, mean_shares: [None; 32] }
    }

    /// Learns from an output that ended by itself or at its limit.
    pub(crate) fn observe(&mut self, num_tokens: u32, limit: u32) {
        let mean = self.mean_share(limit);
        let share = share(num_tokens, limit);
        self.mean_shares[limit.ilog2() as usize] = Some((mean * (INVERSE_WEIGHT - 1) + share) / INVERSE_WEIGHT);
    }

    /// Tokens that an output of `num_tokens` so far will gain: what it lacks of the mean, and if it is near that or beyond, a
    /// quarter of it; no more than to its limit.
    pub(crate) fn expected_gain(&self, num_tokens: u32, limit: u32) -> u32 {
        let mean = (u64::from(limit) * u64::from(self.mean_share(limit))).div_ceil(u64::from(WHOLE)) as u32;
        mean.saturating_sub(num_tokens).max(mean / 4).max(1).min(limit - num_tokens)
    }

    fn mean_share(&self, limit: u32) -> u32 {
        self.mean_shares[limit.ilog2() as usize].unwrap_or_else(|| share(self.expected_tokens, limit))
    }
}

fn share(num_tokens: u32, limit: u32) -> u32 {
    (u64::from(num_tokens.min(limit)) * u64::from(WHOLE) / u64::from(limit)) as u32
}

/// A request that runs, or may be about to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Growing {
    /// Tokens that it will gain before it ends.
    pub(crate) gain: u32,
    /// Blocks that come back when it ends, besides those that it grows into.
    pub(crate) num_blocks: u32,
}

/// All that run, those that end first before others.
#[derive(Debug, Default)]
pub(crate) struct Forecast {
    growing: Vec<Growing>,
}

impl Forecast {
    /// Begins anew, with these.
    pub(crate) fn fill(&mut self, growing: impl Iterator<Item = Growing>) {
        self.growing.clear();
        self.growing.extend(growing);
        self.growing.sort_unstable();
    }

    pub(crate) fn insert(&mut self, growing: Growing) {
        let place = self.growing.partition_point(|other| *other < growing);
        self.growing.insert(place, growing);
    }

    /// The most blocks, beyond those held now, that all of these and one more will hold at a time. A request's blocks are
    /// counted as its tokens over `block_size`: what some have more by their last block others have less by their first.
    pub(crate) fn peak_growth(&self, candidate: Growing, block_size: u32) -> u32 {
        let place = self.growing.partition_point(|other| *other < candidate);
        let (before, after) = self.growing.split_at(place);
        let (mut num_left, mut num_returned, mut peak) = (self.growing.len() as u64 + 1, 0, 0);
        for next in before.iter().chain([&candidate]).chain(after) {
            let num_grown = (num_left * u64::from(next.gain)).div_ceil(u64::from(block_size));
            peak = peak.max(num_grown.saturating_sub(num_returned));
            num_returned += u64::from(next.num_blocks);
            num_left -= 1;
        }
        u32::try_from(peak).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Token by token.
    fn simulated(all: &[Growing]) -> u32 {
        let last = all.iter().map(|growing| growing.gain).max().unwrap_or(0);
        let held_at = |step: u32| -> i64 {
            let held = all.iter().filter(|growing| growing.gain >= step).map(|growing| growing.num_blocks + step);
            held.map(i64::from).sum()
        };
        let now: i64 = all.iter().map(|growing| i64::from(growing.num_blocks)).sum();
        let peak = (0..=last).map(|step| held_at(step) - now).max().unwrap_or(0);
        u32::try_from(peak.max(0)).expect("it is small")
    }

    proptest! {
        #[test]
        fn the_peak_is_that_of_a_simulation(
            all in prop::collection::vec((0_u32..60, 0_u32..40), 1..30),
            candidate in any::<prop::sample::Index>(),
        ) {
            let all: Vec<_> = all.into_iter().map(|(gain, num_blocks)| Growing { gain, num_blocks }).collect();
            let candidate = candidate.index(all.len());
            let mut forecast = Forecast::default();
            let others = || all.iter().enumerate().filter(|(index, _)| *index != candidate).map(|(_, one)| *one);
            forecast.fill(others().take(all.len() / 2));
            others().skip(all.len() / 2).for_each(|growing| forecast.insert(growing));
            prop_assert_eq!(forecast.peak_growth(all[candidate], 1), simulated(&all));
        }
    }

    #[test]
    fn those_that_end_make_room_for_those_that_stay() {
        let mut forecast = Forecast::default();
        let early = Growing { gain: 16, num_blocks: 10 };
        forecast.fill([early; 4].into_iter());
        // Five blocks more before the four end, and then ten for itself where they leave forty.
        assert_eq!(forecast.peak_growth(Growing { gain: 160, num_blocks: 10 }, 16), 5);
        assert_eq!(forecast.peak_growth(early, 16), 5);
    }

    #[test]
    fn lengths_are_learnt_and_outputs_that_pass_the_mean_go_on_for_a_while() {
        let mut lengths = OutputLengths::new(1024);
        assert_eq!(lengths.expected_gain(24, 8000), 1000);
        assert_eq!(lengths.expected_gain(24, 30), 6);
        (0..300).for_each(|_| lengths.observe(100, 8000));
        let near = |gain: u32, expected: u32| assert!(gain.abs_diff(expected) <= 3, "{gain} for {expected}");
        near(lengths.expected_gain(0, 8000), 100);
        near(lengths.expected_gain(60, 8000), 40);
        near(lengths.expected_gain(500, 8000), 25);
        near(lengths.expected_gain(0, 6000), 75);
        assert_eq!(lengths.expected_gain(0, 2000), 1024, "nothing is known of other limits");
        near(lengths.expected_gain(0, 1 << 20), 1024);
        assert_eq!(lengths.expected_gain(1, 1), 0);
    }
}
