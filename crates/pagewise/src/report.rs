//! Figures for people and for programs: the memory ledger, percentiles, durations. Knows nothing of where they come from.

use std::fmt::Write as _;
use std::time::Duration;

/// The memory ledger: a line an entry, and the sum.
pub(crate) fn ledger<'e>(entries: impl Iterator<Item = (&'e str, u64)>) -> String {
    let mut text = "memory".to_string();
    let mut total = 0;
    for (name, bytes) in entries {
        let _ = write!(text, "\n  {name:<18} {:>12}", mebibytes(bytes));
        total += bytes;
    }
    let _ = write!(text, "\n  {:<18} {:>12}", "total", mebibytes(total));
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
        let mut durations: Vec<Duration> = (1..=200).rev().map(Duration::from_millis).collect();
        let expected = serde_json::json!({ "mean": 100.5, "p50": 100.0, "p90": 180.0, "p99": 198.0, "max": 200.0 });
        assert_eq!(percentiles_ms(&mut durations), expected);
        assert_eq!(percentiles_ms(&mut durations[..1])["p50"], 1.0);
        assert!(percentiles_ms(&mut []).is_null());
    }
}
