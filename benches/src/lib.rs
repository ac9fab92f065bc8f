//! What the benchmarks share: drawn prompts and percentiles. `micro/` has the micro-benchmarks, `load/` the load generator.
//! Knows no private items of any crate.

use std::time::Duration;

/// Random token ids, each in `0..vocab_size`; the same for the same seed. SplitMix64 (Steele, Lea and Flood, 2014).
#[must_use]
pub fn draw_token_ids(len: usize, vocab_size: u32, seed: u64) -> Vec<u32> {
    let mut state = seed;
    let draw = |_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((u128::from(z) * u128::from(vocab_size)) >> 64) as u32
    };
    (0..len).map(draw).collect()
}

/// Mean and nearest-rank percentiles, in milliseconds, as JSON. `null` if there are no durations.
pub fn percentiles_ms(durations: &mut [Duration]) -> serde_json::Value {
    if durations.is_empty() {
        return serde_json::Value::Null;
    }
    durations.sort_unstable();
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let at = |percent: usize| ms(durations[(percent * durations.len()).div_ceil(100).max(1) - 1]);
    let mean = durations.iter().copied().map(ms).sum::<f64>() / durations.len() as f64;
    serde_json::json!({ "mean": mean, "p50": at(50), "p90": at(90), "p99": at(99), "max": at(100) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut durations: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let expected = serde_json::json!({ "mean": 100.5, "p50": 100.0, "p90": 180.0, "p99": 198.0, "max": 200.0 });
        assert_eq!(percentiles_ms(&mut durations), expected);
        assert!(percentiles_ms(&mut []).is_null());
    }

    #[test]
    fn prompts_depend_on_the_seed_alone() {
        let drawn = draw_token_ids(1000, 10, 1);
        assert_eq!(drawn, draw_token_ids(1000, 10, 1));
        assert_ne!(drawn, draw_token_ids(1000, 10, 2));
        assert!((0..10).all(|id| drawn.contains(&id)) && !drawn.contains(&10));
    }
}
