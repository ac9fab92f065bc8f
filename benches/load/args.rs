//! The flags of the load generator. Knows no workload's content.

use benches::load::{Protocol, Slo};
use benches::workload::Overrides;
use clap::Parser;

/// Asks a running server what a workload says, and measures the answers.
#[derive(Parser)]
pub(crate) struct Args {
    /// Where the server listens.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub(crate) connect: String,
    /// What it speaks.
    #[arg(long, value_enum, default_value_t = Protocol::Grpc)]
    pub(crate) protocol: Protocol,
    /// The name of a workload, or a file with one.
    #[arg(long, value_name = "NAME|FILE", default_value = "w3")]
    pub(crate) workload: String,
    /// Say which named workloads there are, and whom they stand for.
    #[arg(long)]
    pub(crate) list: bool,
    /// Requests in all, instead of the workload's own number.
    #[arg(long, value_name = "N")]
    num_requests: Option<u32>,
    /// A closed loop of so many requests under way, instead of the workload's own arrivals.
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "rate_sweep"])]
    max_concurrency: Option<u32>,
    /// Requests that come a second, as a Poisson process or in the workload's bursts.
    #[arg(long, value_name = "PER_SECOND", conflicts_with = "rate_sweep")]
    rate: Option<f64>,
    /// Own tokens of each prompt, instead of the workload's own lengths.
    #[arg(long, value_name = "TOKENS")]
    input_len: Option<u32>,
    /// Tokens of each answer, instead of the workload's own lengths.
    #[arg(long, value_name = "TOKENS")]
    output_len: Option<u32>,
    /// Draws the requests, instead of the workload's own seed.
    #[arg(long)]
    seed: Option<u64>,
    /// Prompts of any token ids below this, instead of a text's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) token_ids_below: Option<u32>,
    /// Requests that are asked before, and not measured.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) warmup: u32,
    /// How long a server that is not ready is waited for.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = seconds)]
    pub(crate) wait_s: f64,
    /// An answer that takes longer has failed.
    #[arg(long, value_name = "SECONDS", default_value_t = 600.0, value_parser = seconds)]
    pub(crate) request_timeout_s: f64,
    /// Goodput: longest time to the first token.
    #[arg(long, value_name = "MS", requires = "slo_tpot_ms")]
    slo_ttft_ms: Option<f64>,
    /// Goodput: longest mean time of an answer's output token after the first.
    #[arg(long, value_name = "MS", requires = "slo_ttft_ms")]
    slo_tpot_ms: Option<f64>,
    /// Search for the highest rate between these two at which enough requests are answered within the SLO.
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"], requires = "slo_ttft_ms", value_parser = rate)]
    pub(crate) rate_sweep: Option<Vec<f64>>,
    /// How many of all requests are enough, from 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.99)]
    pub(crate) slo_share: f64,
    /// The search ends when its ends differ by less than this share.
    #[arg(long, value_name = "SHARE", default_value_t = 0.05, value_parser = rate)]
    pub(crate) sweep_precision: f64,
    /// Threads of the load generator. One drives 1,024 streams; more is for servers that need more than one to keep up with.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub(crate) threads: usize,
    /// gRPC connections, used in turn.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) connections: usize,
    /// Exit with an error if a request failed.
    #[arg(long)]
    pub(crate) fail_on_error: bool,
}

impl Args {
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            seed: self.seed,
            num_requests: self.num_requests,
            rate_per_s: self.rate,
            concurrency: self.max_concurrency,
            prompt_tokens: self.input_len,
            output_tokens: self.output_len,
        }
    }

    pub(crate) fn slo(&self) -> Option<Slo> {
        Some(Slo { ttft_ms: self.slo_ttft_ms?, tpot_ms: self.slo_tpot_ms? })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number")?;
    if (0.0..=86_400.0).contains(&value) { Ok(value) } else { Err("0 to 86,400 seconds".into()) }
}

fn rate(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number")?;
    if value > 0.0 && value.is_finite() { Ok(value) } else { Err("it must be positive".into()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_are_consistent() {
        Args::command().debug_assert();
        let parse = |words: &str| Args::try_parse_from(words.split(' '));
        assert_eq!(parse("load").expect("all have defaults").slo(), None);
        let swept = parse("load --rate-sweep 1 8 --slo-ttft-ms 200 --slo-tpot-ms 20").expect("it is complete");
        assert_eq!(swept.slo(), Some(Slo { ttft_ms: 200.0, tpot_ms: 20.0 }));
        assert_eq!(swept.rate_sweep, Some(vec![1.0, 8.0]));
        for words in ["load --rate-sweep 1 8", "load --slo-ttft-ms 3", "load --rate 1 --max-concurrency 2"] {
            assert!(parse(words).is_err(), "{words}");
        }
    }
}
