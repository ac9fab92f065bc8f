//! Simulated reports: a page and a plot in `docs/`. Knows none of their figures.

use anyhow::Result;

use crate::process;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which one.
    report: Report,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Report {
    /// What becomes of KV memory in contiguous regions and in blocks.
    Fragmentation,
    /// Requests served in time when more come than can be served.
    Overload,
}

/// Builds the simulator and writes the report. The table goes to stdout too.
pub(crate) fn run(args: &Args) -> Result<()> {
    let name = match args.report {
        Report::Fragmentation => "fragmentation",
        Report::Overload => "overload",
    };
    let mut report = process::cargo();
    report.args(["run", "--profile", "sim", "--package", "sim", "--example", "report", "--", name]);
    process::step(report.arg(process::repository_root().join("docs")))
}
