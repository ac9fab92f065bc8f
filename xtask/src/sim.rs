//! The simulator: random scenarios on the real engine, as many as wanted. Knows none of its checks.

use std::path::PathBuf;

use anyhow::Result;

use crate::process;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seed of the first scenario; the next ones follow.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Play scenarios until so many steps of the engine are done.
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
    /// Play the journal of an engine again instead, and compare every batch.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "steps"])]
    replay: Option<PathBuf>,
}

/// Builds the simulator with optimisation and with all assertions, and runs it on all cores.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut simulate = process::cargo();
    simulate.args(["run", "--profile", "sim", "--package", "sim", "--example", "simulate", "--"]);
    match &args.replay {
        // The simulator runs in the repository's root, whatever folder the file was named from.
        Some(journal) => simulate.arg("--replay").arg(std::path::absolute(journal)?),
        None => simulate.args([args.seed, args.steps].map(|number| number.to_string())),
    };
    process::step(&mut simulate)
}
