//! Seeded random numbers and the hash behind everything fake. Knows no distribution beyond what workloads ask for.

use core::ops::RangeInclusive;

/// SplitMix64 (Steele, Lea and Flood, 2014): small, fast, and good enough to choose tests by.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        finalize(self.state)
    }

    /// A number of the range, all equally likely (up to a bias that does not matter here).
    pub fn pick(&mut self, range: RangeInclusive<u32>) -> u32 {
        let (first, last) = range.into_inner();
        assert!(first <= last, "the range holds a number");
        first + (self.bits() % (u64::from(last - first) + 1)) as u32
    }

    /// A number in `(0, 1]`.
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// A normally distributed number with mean 0 and deviation 1 (Box and Muller, 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.unit().ln()).sqrt();
        radius * (core::f64::consts::TAU * self.unit()).cos()
    }

    /// True so many times in a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.pick(0..=999) < per_mille
    }
}

/// Mixes a value into a hash.
pub(crate) fn mix(hash: u64, value: u64) -> u64 {
    finalize(hash.rotate_left(23).wrapping_add(value).wrapping_add(0x9e37_79b9_7f4a_7c15))
}

fn finalize(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
