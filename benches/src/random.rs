//! Random numbers that are the same on every machine and with every version of every library, so that a seed names a
//! workload for good. Knows no workload.

/// A stream of random numbers: SplitMix64 (Steele, Lea and Flood, 2014).
pub struct Random {
    state: u64,
}

impl Random {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// One of many independent streams of a seed.
    #[must_use]
    pub fn stream(seed: u64, number: u64) -> Self {
        // Mixed twice, or the streams of near seeds and near numbers would be shifted copies of each other.
        let of_seed = Self::new(seed).bits();
        Self::new(Self::new(of_seed.wrapping_add(number)).bits())
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number in `0..bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u32
    }

    /// A number in `(0, 1]`, in steps of 2^-53.
    pub fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// Exponentially distributed with mean 1: the time between the events of a Poisson process of rate 1.
    pub fn exponential(&mut self) -> f64 {
        -libm::log(self.unit())
    }

    /// Normally distributed with mean 0 and deviation 1, after Box and Muller (1958).
    pub fn normal(&mut self) -> f64 {
        let radius = libm::sqrt(2.0 * self.exponential());
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_of_a_seed_is_the_published_one() {
        // From the reference implementation in C with the seed 1234567.
        let mut random = Random::new(1_234_567);
        let first = [random.bits(), random.bits(), random.bits()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn streams_differ() {
        let start = |seed, number| Random::stream(seed, number).bits();
        let starts = [start(0, 0), start(0, 1), start(1, 0), start(1, 1), start(2, 0)];
        for (i, a) in starts.iter().enumerate() {
            assert!(!starts[i + 1..].contains(a), "stream {i} is another's copy");
        }
    }

    #[test]
    fn distributions_have_their_moments() {
        const NUM: u32 = 100_000;
        let mut random = Random::new(1);
        let mean = |draw: &mut dyn FnMut() -> f64| (0..NUM).map(|_| draw()).sum::<f64>() / f64::from(NUM);
        assert!((mean(&mut || random.unit()) - 0.5).abs() < 0.005);
        assert!((mean(&mut || f64::from(random.below(5))) - 2.0).abs() < 0.02);
        assert!((mean(&mut || random.exponential()) - 1.0).abs() < 0.01);
        assert!(mean(&mut || random.normal()).abs() < 0.01);
        assert!((mean(&mut || random.normal().powi(2)) - 1.0).abs() < 0.02);
    }
}
