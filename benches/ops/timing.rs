//! How often something is repeated, and what its samples come to. Knows no op.

use std::time::{Duration, Instant};

use anyhow::Result;

/// How long a case may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Calls of a sample take at least so long together: a clock, and a wait for a device, are small beside that.
    min_sample: Duration,
    num_samples: usize,
    /// No sample begins after this, but for the first few.
    budget: Duration,
}

impl Effort {
    pub(crate) const FULL: Self =
        Self { min_sample: Duration::from_millis(4), num_samples: 25, budget: Duration::from_secs(2) };
    pub(crate) const QUICK: Self =
        Self { min_sample: Duration::from_millis(1), num_samples: 7, budget: Duration::from_millis(300) };
}

/// Samples that are taken however long they last.
const MIN_SAMPLES: usize = 3;

/// Calls of a sample, at most.
const MAX_CALLS: usize = 1 << 20;

/// Times of one call.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Times {
    pub(crate) median_ns: f64,
    /// The median of the samples' distances from their median.
    pub(crate) spread_ns: f64,
    pub(crate) num_samples: usize,
}

impl Times {
    /// Of samples, which are not empty.
    pub(crate) fn of(samples_ns: &mut [f64]) -> Self {
        let median_ns = median(samples_ns);
        let num_samples = samples_ns.len();
        for sample in &mut *samples_ns {
            *sample = (*sample - median_ns).abs();
        }
        Self { median_ns, spread_ns: median(samples_ns), num_samples }
    }

    /// Of one of so many equal parts.
    pub(crate) fn of_each(self, num: usize) -> Self {
        let num = num as f64;
        Self { median_ns: self.median_ns / num, spread_ns: self.spread_ns / num, ..self }
    }
}

/// Doubles the calls of a sample until it is long enough, or they are `max_calls`, then takes samples. `sample` does so many
/// calls, and says how long they took.
pub(crate) fn measure(
    effort: Effort,
    max_calls: usize,
    mut sample: impl FnMut(usize) -> Result<Duration>,
) -> Result<Times> {
    let max_calls = max_calls.min(MAX_CALLS);
    let mut calls = 1;
    while sample(calls)? < effort.min_sample && calls < max_calls {
        calls = (2 * calls).min(max_calls);
    }
    let began = Instant::now();
    let mut samples_ns = Vec::with_capacity(effort.num_samples);
    while samples_ns.len() < MIN_SAMPLES || (samples_ns.len() < effort.num_samples && began.elapsed() < effort.budget) {
        samples_ns.push(sample(calls)?.as_secs_f64() * 1e9 / calls as f64);
    }
    Ok(Times::of(&mut samples_ns))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        let check = |samples: &[f64], median_ns, spread_ns| {
            let times = Times { median_ns, spread_ns, num_samples: samples.len() };
            assert_eq!(Times::of(&mut samples.to_vec()), times);
        };
        check(&[5.0], 5.0, 0.0);
        check(&[9.0, 1.0, 2.0], 2.0, 1.0);
        check(&[4.0, 1.0, 2.0, 100.0], 3.0, 1.5);
        let times = Times { median_ns: 8.0, spread_ns: 2.0, num_samples: 3 };
        assert_eq!(times.of_each(4), Times { median_ns: 2.0, spread_ns: 0.5, num_samples: 3 });
    }

    #[test]
    fn a_sample_has_as_many_calls_as_it_needs() {
        // A call of 300 us takes 16 calls to be 4 ms; the clock of the test is the sample's own word.
        let check = |max_calls, expected: &[usize]| {
            let mut seen = Vec::new();
            let times = measure(Effort::FULL, max_calls, |calls| {
                seen.push(calls);
                Ok(Duration::from_micros(300) * calls as u32)
            });
            assert_eq!(times.expect("nothing fails").median_ns, 300_000.0);
            assert_eq!(seen[..expected.len()], *expected);
            assert!(seen[expected.len()..].iter().all(|calls| calls == expected.last().expect("a sample")));
        };
        check(100, &[1, 2, 4, 8, 16]);
        check(6, &[1, 2, 4, 6]);
        check(1, &[1]);
    }
}
