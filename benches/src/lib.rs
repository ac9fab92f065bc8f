//! What the benchmarks share, and the load generator: workloads as data, and the answers of a server to them, measured.
//! `micro/` has the micro-benchmarks, `load/` the load generator's program. Knows no private items of any crate.

pub mod load;
pub mod random;
pub mod text;
pub mod workload;

use random::Random;

/// Random token ids, each in `0..vocab_size`; the same for the same seed.
#[must_use]
pub fn draw_token_ids(len: usize, vocab_size: u32, seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.below(vocab_size)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_depend_on_the_seed_alone() {
        let drawn = draw_token_ids(1000, 10, 1);
        assert_eq!(drawn, draw_token_ids(1000, 10, 1));
        assert_ne!(drawn, draw_token_ids(1000, 10, 2));
        assert!((0..10).all(|id| drawn.contains(&id)) && !drawn.contains(&10));
    }
}
