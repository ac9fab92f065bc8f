//! What a run leaves: one object of JSON, and lines to be read. Knows no server.

use std::fmt::Write as _;

use benches::load::{About, Figures, Percentiles, Usage};
use benches::workload::Workload;
use serde::Serialize;

use crate::args::Args;

/// One run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) asked: Asked,
    pub(crate) server: About,
    pub(crate) figures: Figures,
    pub(crate) load_generator: LoadGenerator,
}

/// What was asked.
#[derive(Serialize)]
pub(crate) struct Asked {
    /// The workload's name or file.
    pub(crate) name: String,
    /// Requests that were drawn.
    pub(crate) requests: usize,
    /// Equal where the same was asked.
    pub(crate) requests_sha256: String,
    /// All of the workload, with what flags changed.
    pub(crate) workload: Workload,
}

/// What measured.
#[derive(Serialize)]
pub(crate) struct LoadGenerator {
    version: &'static str,
    threads: usize,
    connections: usize,
    #[serde(flatten)]
    usage: Usage,
    cpu_us_per_output_token: f64,
}

/// A rate sweep.
#[derive(Serialize)]
pub(crate) struct SweepReport {
    /// `null`: not even the lowest rate was borne.
    pub(crate) highest_rate_per_s: Option<f64>,
    /// Whether a higher rate was tried and was too much.
    pub(crate) is_bounded: bool,
    /// How many of all requests had to be answered within the SLO.
    pub(crate) slo_share: f64,
    pub(crate) points: Vec<SweepPoint>,
}

/// One rate of a sweep.
#[derive(Serialize)]
pub(crate) struct SweepPoint {
    pub(crate) rate_per_s: f64,
    pub(crate) is_borne: bool,
    #[serde(flatten)]
    pub(crate) report: Report,
}

impl Report {
    pub(crate) fn new(asked: Asked, server: About, figures: Figures, usage: Usage, args: &Args) -> Self {
        let cpu_us_per_output_token = match figures.output_tokens {
            0 => 0.0,
            num_tokens => usage.cpu_seconds * 1e6 / num_tokens as f64,
        };
        let version = env!("CARGO_PKG_VERSION");
        let (threads, connections) = (args.threads, args.connections);
        let load_generator = LoadGenerator { version, threads, connections, usage, cpu_us_per_output_token };
        Self { asked, server, figures, load_generator }
    }

    /// The figures in a few lines.
    pub(crate) fn summary(&self) -> String {
        let Figures { requests, .. } = self.figures;
        let mut lines = format!(
            "{}: {} requests to {} ({}), {:.2} s; requests sha256 {}\n",
            self.asked.name,
            requests.sent,
            self.server.model,
            self.server.version.as_deref().unwrap_or("version not said"),
            self.figures.seconds,
            &self.asked.requests_sha256[..16],
        );
        let _ = writeln!(
            lines,
            "  {} complete, {} hung up, {} missed the deadline, {} failed",
            requests.complete, requests.hung_up, requests.deadline_missed, requests.failed
        );
        for (kind, errors) in &self.figures.errors {
            let _ = writeln!(lines, "  {} times {kind}, first: {}", errors.num, errors.first);
        }
        let _ = writeln!(
            lines,
            "  {:.1} output tokens/s, {:.1} tokens/s, {:.2} requests/s; {} of {} prompt tokens cached",
            self.figures.output_tokens_per_second,
            self.figures.total_tokens_per_second,
            self.figures.requests_per_second,
            self.figures.cached_tokens,
            self.figures.prompt_tokens,
        );
        for (what, percentiles) in [
            ("TTFT", &self.figures.ttft_ms),
            ("ITL", &self.figures.itl_ms),
            ("TPOT", &self.figures.tpot_ms),
            ("end to end", &self.figures.e2e_ms),
            ("sent late by", &self.figures.late_ms),
        ] {
            percentiles.iter().for_each(|percentiles| lines += &percentiles_line(what, percentiles));
        }
        if let Some(goodput) = &self.figures.goodput {
            let (share, rate) = (100.0 * goodput.share, goodput.requests_per_second);
            let _ = writeln!(lines, "  goodput {rate:.2} requests/s, {share:.1} % within the SLO");
        }
        let LoadGenerator { usage, cpu_us_per_output_token, .. } = &self.load_generator;
        let share = 100.0 * usage.cpu_share;
        let _ = writeln!(
            lines,
            "  the load generator took {share:.2} % of {} processors, {cpu_us_per_output_token:.1} us an output token",
            usage.num_cpus
        );
        lines
    }
}

fn percentiles_line(what: &str, percentiles: &Percentiles) -> String {
    let Percentiles { mean, p50, p90, p99, p99_9, max } = percentiles;
    format!(
        "  {what:<13}{mean:>10.2} mean{p50:>10.2} p50{p90:>10.2} p90{p99:>10.2} p99{p99_9:>10.2} p99.9{max:>10.2} max, ms\n"
    )
}
