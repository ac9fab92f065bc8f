//! When requests come. Knows neither their content nor any server.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// The process by which conversations begin.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "process", rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrivals {
    /// Everything in the first moment.
    AllAtOnce {},
    /// Independent of each other, so many a second in the mean.
    Poisson {
        /// Conversations that begin, a second.
        rate_per_s: f64,
    },
    /// Poisson as well, but several begin at each moment.
    Bursts {
        /// Conversations that begin, a second, in the mean.
        rate_per_s: f64,
        /// Conversations that begin together.
        size: u32,
    },
    /// A fixed number under way; each begins when one before it has ended.
    ClosedLoop {
        /// Conversations under way.
        concurrency: u32,
    },
}

/// Most conversations that a closed loop has under way.
pub const MAX_CONCURRENCY: u32 = 65_536;

impl Arrivals {
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::AllAtOnce {} => {}
            Self::Poisson { rate_per_s } => check_rate(*rate_per_s)?,
            Self::Bursts { rate_per_s, size } => {
                check_rate(*rate_per_s)?;
                ensure!(*size >= 1, "a burst needs a size of 1 or more");
            }
            Self::ClosedLoop { concurrency } => {
                ensure!(
                    (1..=MAX_CONCURRENCY).contains(concurrency),
                    "a concurrency of {concurrency}: 1 to {MAX_CONCURRENCY}"
                );
            }
        }
        Ok(())
    }

    /// When each conversation begins after the start, in microseconds, in order. A closed loop has no times beforehand: all
    /// are 0.
    pub(super) fn times(&self, random: &mut Random) -> impl Iterator<Item = u64> {
        let (rate_per_s, size) = match self {
            Self::AllAtOnce {} | Self::ClosedLoop { .. } => (f64::INFINITY, 1),
            Self::Poisson { rate_per_s } => (*rate_per_s, 1),
            Self::Bursts { rate_per_s, size } => (*rate_per_s / f64::from(*size), *size),
        };
        let mut at_s = 0.0;
        (0..).map(move |number: u32| {
            if number.is_multiple_of(size) {
                at_s += random.exponential() / rate_per_s;
            }
            (at_s * 1e6).round() as u64
        })
    }
}

fn check_rate(rate_per_s: f64) -> Result<()> {
    ensure!(rate_per_s > 0.0 && rate_per_s.is_finite(), "a rate of {rate_per_s} a second: it must be positive");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(arrivals: &Arrivals, num: usize) -> Vec<u64> {
        arrivals.check().expect("the case is valid");
        arrivals.times(&mut Random::new(3)).take(num).collect()
    }

    #[test]
    fn a_rate_is_kept() {
        let poisson = times(&Arrivals::Poisson { rate_per_s: 20.0 }, 20_000);
        assert!(poisson.is_sorted());
        assert!((980e6..1020e6).contains(&(poisson[19_999] as f64)), "{}", poisson[19_999]);
        // Of independent events, as many gaps are above the mean as e^-1 says.
        let num_long = poisson.windows(2).filter(|pair| pair[1] - pair[0] > 50_000).count();
        assert!((7150..7550).contains(&num_long), "{num_long}");

        let bursts = times(&Arrivals::Bursts { rate_per_s: 20.0, size: 4 }, 20_000);
        assert!(bursts.chunks(4).all(|burst| burst[0] == burst[3]));
        assert!(bursts.windows(2).filter(|pair| pair[0] != pair[1]).count() > 4990);
        assert!((950e6..1050e6).contains(&(bursts[19_999] as f64)), "{}", bursts[19_999]);
    }

    #[test]
    fn nothing_waits_where_everything_comes_at_once() {
        assert_eq!(times(&Arrivals::AllAtOnce {}, 3), [0, 0, 0]);
        assert_eq!(times(&Arrivals::ClosedLoop { concurrency: 2 }, 3), [0, 0, 0]);
    }

    #[test]
    fn impossible_processes_are_refused() {
        let check = |arrivals: Arrivals| assert!(arrivals.check().is_err(), "{arrivals:?}");
        check(Arrivals::Poisson { rate_per_s: 0.0 });
        check(Arrivals::Poisson { rate_per_s: f64::NAN });
        check(Arrivals::Bursts { rate_per_s: 1.0, size: 0 });
        check(Arrivals::ClosedLoop { concurrency: 0 });
    }
}
