//! Figures for people and for programs: the memory ledger, the phases of a start, percentiles. Knows nothing of where they come from.

use std::fmt::Write as _;
use std::iter::Sum;
use std::time::Duration;

/// The memory ledger: a line an entry, and the sum.
pub(crate) fn ledger<'e>(entries: impl Iterator<Item = (&'e str, u64)>) -> String {
    table("memory", entries, mebibytes)
}

/// The phases of a start: a line each, and the sum.
pub(crate) fn phases(phases: impl Iterator<Item = (&'static str, Duration)>) -> String {
    table("start", phases, |duration| format!("{:.1} ms", duration.as_secs_f64() * 1e3))
}

/// Named figures of one unit under a title, a line each, and their sum. `cargo xtask bench startup` reads it too.
fn table<'n, T: Copy + Sum>(
    title: &str,
    lines: impl Iterator<Item = (&'n str, T)>,
    figure: impl Fn(T) -> String,
) -> String {
    let lines: Vec<(&str, T)> = lines.collect();
    let total = lines.iter().map(|(_, value)| *value).sum();
    let mut text = title.to_string();
    for (name, value) in lines.into_iter().chain([("total", total)]) {
        let _ = write!(text, "\n  {name:<18} {:>12}", figure(value));
    }
    text
}

/// A size in MiB.
pub(crate) fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

/// Mean and percentiles of durations, in milliseconds, as JSON. `null` if there are none.
pub(crate) fn percentiles_ms(durations: &mut [Duration]) -> serde_json::Value {
    if durations.is_empty() {
        return serde_json::Value::Null;
    }
    durations.sort_unstable();
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let mean = durations.iter().copied().map(ms).sum::<f64>() / durations.len() as f64;
    let at = |percent: usize| ms(durations[nearest_rank(percent, durations.len())]);
    serde_json::json!({ "mean": mean, "p50": at(50), "p90": at(90), "p99": at(99), "max": at(100) })
}

/// The index of the smallest value that at least `percent` of all values do not exceed.
fn nearest_rank(percent: usize, len: usize) -> usize {
    (percent * len).div_ceil(100).max(1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let text = ledger([("weights", 3 << 20), ("kv blocks", 1 << 19)].into_iter());
        assert_eq!(
            text,
            "memory\n  weights                 3.0 MiB\n  kv blocks               0.5 MiB\n  total                   3.5 MiB"
        );
        let text =
            phases([("weights", Duration::from_micros(12_345)), ("tokenizer", Duration::from_millis(1))].into_iter());
        assert_eq!(
            text,
            "start\n  weights                 12.3 ms\n  tokenizer                1.0 ms\n  total                   13.3 ms"
        );
        let mut durations: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let expected = serde_json::json!({ "mean": 100.5, "p50": 100.0, "p90": 180.0, "p99": 198.0, "max": 200.0 });
        assert_eq!(percentiles_ms(&mut durations), expected);
        assert_eq!(percentiles_ms(&mut durations[..1])["p50"], 1.0);
        assert!(percentiles_ms(&mut []).is_null());
    }
}
