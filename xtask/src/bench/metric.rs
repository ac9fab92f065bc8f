//! What servers are compared by. Knows no server and no goal.

use anyhow::Result;

use super::loaded::Loaded;

/// One figure of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Metric {
    /// Tokens of one stream after its first, a second.
    DecodeRate,
    /// Median time to the first token.
    Ttft,
    /// Tokens of a prompt over the time to the first token.
    PrefillRate,
    /// Output tokens of all streams, a second.
    OutputRate,
    /// Between messages of a stream; 99 % of the gaps are shorter.
    ItlP99,
    /// From the first request to the last token.
    Wall,
    /// From the start of the process.
    FirstToken,
    /// Over all workloads of a run.
    PeakResident,
}

impl Metric {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::DecodeRate => "decode",
            Self::Ttft => "TTFT",
            Self::PrefillRate => "prefill",
            Self::OutputRate => "output",
            Self::ItlP99 => "inter-token p99",
            Self::Wall => "wall",
            Self::FirstToken => "start to first token",
            Self::PeakResident => "peak RSS",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::DecodeRate | Self::PrefillRate | Self::OutputRate => "tokens/s",
            Self::Ttft | Self::ItlP99 => "ms",
            Self::Wall | Self::FirstToken => "s",
            Self::PeakResident => "MiB",
        }
    }

    /// Whether a run under load shows it: answers of one token have nothing after their first.
    pub(super) fn is_in(self, loaded: &Loaded) -> bool {
        match self {
            Self::DecodeRate => loaded.figure("/figures/tpot_ms/mean").is_ok(),
            Self::ItlP99 => loaded.figure("/figures/itl_ms/p99").is_ok(),
            Self::Ttft | Self::PrefillRate | Self::OutputRate | Self::Wall => true,
            Self::FirstToken | Self::PeakResident => false,
        }
    }

    /// The figure of a run under load.
    ///
    /// # Panics
    /// If no load shows it.
    pub(super) fn of(self, loaded: &Loaded) -> Result<f64> {
        Ok(match self {
            Self::DecodeRate => 1e3 / loaded.figure("/figures/tpot_ms/mean")?,
            Self::Ttft => loaded.figure("/figures/ttft_ms/p50")?,
            Self::PrefillRate => {
                let num_tokens =
                    loaded.figure("/figures/prompt_tokens")? / loaded.figure("/figures/requests/complete")?;
                num_tokens * 1e3 / loaded.figure("/figures/ttft_ms/mean")?
            }
            Self::OutputRate => loaded.figure("/figures/output_tokens_per_second")?,
            Self::ItlP99 => loaded.figure("/figures/itl_ms/p99")?,
            Self::Wall => loaded.figure("/figures/seconds")?,
            Self::FirstToken | Self::PeakResident => unreachable!("{self:?} is a figure of a process"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_come_from_their_places() {
        let loaded = Loaded::of(serde_json::json!({ "figures": {
            "seconds": 4.0, "requests": { "complete": 2 }, "prompt_tokens": 200, "output_tokens_per_second": 50.0,
            "ttft_ms": { "mean": 20.0, "p50": 19.0 }, "itl_ms": { "p99": 7.0 }, "tpot_ms": { "mean": 5.0 },
        } }));
        let check = |metric: Metric, expected: f64| assert_eq!(metric.of(&loaded).expect("it is there"), expected);
        check(Metric::DecodeRate, 200.0);
        check(Metric::Ttft, 19.0);
        check(Metric::PrefillRate, 5000.0);
        check(Metric::OutputRate, 50.0);
        check(Metric::ItlP99, 7.0);
        check(Metric::Wall, 4.0);
        assert!(Metric::DecodeRate.is_in(&loaded) && !Metric::PeakResident.is_in(&loaded));
        let of_one_token = Loaded::of(serde_json::json!({ "figures": { "itl_ms": null, "tpot_ms": null } }));
        assert!(Metric::Ttft.is_in(&of_one_token) && !Metric::DecodeRate.is_in(&of_one_token));
        assert!(!Metric::ItlP99.is_in(&of_one_token) && Metric::Wall.of(&of_one_token).is_err());
    }
}
