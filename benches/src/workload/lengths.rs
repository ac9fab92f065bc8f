//! How long prompts and answers are. Knows no tokens.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::random::Random;

/// No prompt and no answer is longer.
pub const MAX_LENGTH_TOKENS: u32 = 1 << 20;

/// A distribution of lengths, in tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "distribution", rename_all = "snake_case", deny_unknown_fields)]
pub enum Lengths {
    /// Always the same.
    Fixed {
        /// The length.
        tokens: u32,
    },
    /// All lengths from the least to the most alike.
    Uniform {
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// Whose logarithm is normally distributed; what lies outside the cuts is moved onto them.
    LogNormal {
        /// Half of the lengths are below.
        median: f64,
        /// Deviation of the natural logarithm.
        sigma: f64,
        /// The lower cut.
        min: u32,
        /// The upper cut.
        max: u32,
    },
    /// Taken from a file in turn, one line of JSON a request, from its first line again after its last. Distributions that
    /// name the same file keep the lengths of a line together.
    Trace {
        /// The file; a relative path starts at the workload's folder.
        file: String,
        /// The field of a line that holds the length.
        field: String,
    },
}

impl Lengths {
    /// Refuses what cannot be drawn from.
    pub(super) fn check(&self) -> Result<()> {
        let bounds = match self {
            Self::Fixed { tokens } => [*tokens, *tokens],
            Self::Uniform { min, max } | Self::LogNormal { min, max, .. } => [*min, *max],
            Self::Trace { .. } => return Ok(()),
        };
        let [min, max] = bounds;
        ensure!(
            1 <= min && min <= max,
            "lengths of {min} to {max} tokens: the least must be 1 or more, and not above the most"
        );
        ensure!(max <= MAX_LENGTH_TOKENS, "a length of {max} tokens is above {MAX_LENGTH_TOKENS}");
        if let Self::LogNormal { median, sigma, .. } = self {
            ensure!(
                *median > 0.0 && *sigma >= 0.0,
                "a log-normal length needs a positive median and no negative sigma"
            );
        }
        Ok(())
    }

    /// Reads what must be read, so that drawing cannot fail.
    pub(super) fn open(&self, folder: &Path) -> Result<Source> {
        let Self::Trace { file, field } = self else { return Ok(Source::Drawn(self.clone())) };
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let lengths = read_trace(&text, field).with_context(|| path.display().to_string())?;
        Ok(Source::Given(lengths))
    }
}

fn read_trace(text: &str, field: &str) -> Result<Vec<u32>> {
    let mut lengths = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let line: serde_json::Value = serde_json::from_str(line).with_context(|| format!("line {number}"))?;
        let length = line[field].as_u64().with_context(|| format!("line {number} has no whole number {field:?}"))?;
        ensure!((1..=u64::from(MAX_LENGTH_TOKENS)).contains(&length), "line {number}: a length of {length} tokens");
        lengths.push(length as u32);
    }
    ensure!(!lengths.is_empty(), "it has no lines");
    Ok(lengths)
}

/// Where lengths come from, once everything is read.
pub(super) enum Source {
    Drawn(Lengths),
    Given(Vec<u32>),
}

impl Source {
    /// The length of the request with this number.
    pub(super) fn length(&self, number: usize, random: &mut Random) -> u32 {
        match self {
            Self::Given(lengths) => lengths[number % lengths.len()],
            Self::Drawn(Lengths::Fixed { tokens }) => *tokens,
            Self::Drawn(Lengths::Uniform { min, max }) => min + random.below(max - min + 1),
            Self::Drawn(Lengths::LogNormal { median, sigma, min, max }) => {
                let length = median * libm::exp(sigma * random.normal());
                (length.round() as u32).clamp(*min, *max)
            }
            Self::Drawn(Lengths::Trace { .. }) => unreachable!("a trace is read when it is opened"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(lengths: &Lengths, num: usize) -> Vec<u32> {
        lengths.check().expect("the case is valid");
        let source = lengths.open(Path::new("/nonexistent")).expect("nothing to read");
        let mut random = Random::new(7);
        (0..num).map(|number| source.length(number, &mut random)).collect()
    }

    #[test]
    fn a_seed_gives_these_lengths() {
        assert_eq!(draw(&Lengths::Fixed { tokens: 5 }, 3), [5, 5, 5]);
        assert_eq!(draw(&Lengths::Uniform { min: 3, max: 6 }, 8), UNIFORM);
        assert_eq!(draw(&Lengths::LogNormal { median: 100.0, sigma: 1.25, min: 4, max: 2048 }, 8), LOG_NORMAL);
    }

    const UNIFORM: [u32; 8] = [4, 3, 6, 5, 4, 3, 4, 4];
    const LOG_NORMAL: [u32; 8] = [551, 61, 101, 48, 12, 1317, 143, 52];

    #[test]
    fn lengths_follow_their_distribution() {
        const NUM: usize = 20_000;
        let mut lengths = draw(&Lengths::LogNormal { median: 100.0, sigma: 1.25, min: 4, max: 2048 }, NUM);
        lengths.sort_unstable();
        // Quantiles of the normal distribution: 0 deviations at one half, 1 at 0.8413.
        assert!((95..=105).contains(&lengths[NUM / 2]), "{}", lengths[NUM / 2]);
        assert!((333..=365).contains(&lengths[NUM * 8413 / 10_000]), "{}", lengths[NUM * 8413 / 10_000]);
        assert_eq!((lengths[0], lengths[NUM - 1]), (4, 2048));

        let uniform = draw(&Lengths::Uniform { min: 3, max: 6 }, NUM);
        for length in 3..=6 {
            let num = uniform.iter().filter(|drawn| **drawn == length).count();
            assert!((4800..5200).contains(&num), "{num} of {length}");
        }
    }

    #[test]
    fn a_trace_is_played_in_turn() {
        let text = "{\"in\": 10, \"out\": 3}\n\n{\"in\": 20, \"out\": 5}\n";
        let source = Source::Given(read_trace(text, "out").expect("the trace is readable"));
        let mut random = Random::new(0);
        assert_eq!([0, 1, 2].map(|number| source.length(number, &mut random)), [3, 5, 3]);
        let refuse = |text: &str| format!("{:#}", read_trace(text, "out").expect_err("the case is refused"));
        assert_eq!(refuse("\n"), "it has no lines");
        assert_eq!(refuse("{\"in\": 1}"), "line 1 has no whole number \"out\"");
        assert_eq!(refuse("{\"out\": 0}"), "line 1: a length of 0 tokens");
        assert!(refuse("{").starts_with("line 1: "));
    }

    #[test]
    fn what_cannot_be_drawn_from_is_refused() {
        let check = |lengths: Lengths| assert!(lengths.check().is_err(), "{lengths:?}");
        check(Lengths::Fixed { tokens: 0 });
        check(Lengths::Fixed { tokens: MAX_LENGTH_TOKENS + 1 });
        check(Lengths::Uniform { min: 2, max: 1 });
        check(Lengths::LogNormal { median: 0.0, sigma: 1.0, min: 1, max: 2 });
        check(Lengths::LogNormal { median: 1.0, sigma: -1.0, min: 1, max: 2 });
        check(Lengths::LogNormal { median: f64::NAN, sigma: 1.0, min: 1, max: 2 });
    }
}
