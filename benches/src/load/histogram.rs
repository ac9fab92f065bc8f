//! Percentiles of durations, to a thousandth of each. Knows not of what.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest duration that is told apart from longer ones.
const MAX: Duration = Duration::from_secs(24 * 3600);

/// Percentiles, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// The mean.
    pub mean: f64,
    /// Half are at most this.
    pub p50: f64,
    /// 90 % are at most this.
    pub p90: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// 99.9 % are at most this.
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    /// The longest.
    pub max: f64,
}

impl Percentiles {
    /// Of these; `None` if there are none.
    pub fn of(durations: impl Iterator<Item = Duration>) -> Option<Self> {
        let mut histogram =
            Histogram::<u64>::new_with_bounds(1, MAX.as_micros() as u64, 3).expect("the bounds are valid");
        durations.for_each(|duration| histogram.saturating_record(duration.as_micros() as u64));
        if histogram.is_empty() {
            return None;
        }
        let ms = |us: u64| us as f64 / 1e3;
        let at = |quantile| ms(histogram.value_at_quantile(quantile));
        Some(Self {
            mean: rounded(histogram.mean() / 1e3),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: ms(histogram.max()),
        })
    }
}

/// To whole microseconds, as the others are.
fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_right_to_a_thousandth() {
        let percentiles = Percentiles::of((1..=2000).map(Duration::from_millis)).expect("there are some");
        let near =
            |value: f64, expected: f64| assert!((value / expected - 1.0).abs() <= 1e-3, "{value} is not {expected}");
        near(percentiles.mean, 1000.5);
        near(percentiles.p50, 1000.0);
        near(percentiles.p90, 1800.0);
        near(percentiles.p99, 1980.0);
        near(percentiles.p99_9, 1998.0);
        near(percentiles.max, 2000.0);
        assert_eq!(Percentiles::of(std::iter::empty()), None);
    }
}
