//! Benchmarks: the micro-benchmarks, then a load run through gRPC on the demo model. Knows neither's code.

mod estimates;
mod goals;
mod machine;
mod measured;
mod micro;
mod record;

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::demo::Server;
use crate::process;
use crate::pull_demo::DEMO_MODEL;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Requests of the load run.
    #[arg(long, default_value_t = 32)]
    num_requests: u32,
    /// Requests of the load run that are under way at a time.
    #[arg(long, default_value_t = 8)]
    max_concurrency: u32,
    /// Only the load run.
    #[arg(long)]
    no_micro: bool,
}

#[derive(clap::Subcommand)]
enum Part {
    /// Only the micro-benchmarks, compared with their goals.
    Micro(micro::Args),
}

/// Runs what is asked for; without a part, everything. The load run's figures go to stdout as one JSON object.
pub(crate) fn run(args: &Args) -> Result<()> {
    match &args.part {
        Some(Part::Micro(args)) => micro::run(args),
        None => {
            if !args.no_micro {
                micro::run(&micro::Args::default())?;
            }
            load(args)
        }
    }
}

fn load(args: &Args) -> Result<()> {
    // One at a time: together they would be built with other features than the demo's, all anew.
    for package in ["pagewise", "benches"] {
        process::step(process::cargo().args(["build", "--release", "--package", package]))?;
    }
    let pagewise = process::built_binary("release", "pagewise")?;
    process::step(Command::new(&pagewise).args(["pull", DEMO_MODEL]).stdout(Stdio::null()))?;
    let server = Server::start(&pagewise, &["--model", DEMO_MODEL])?;
    let (requests, concurrency) = (args.num_requests.to_string(), args.max_concurrency.to_string());
    let mut load = Command::new(process::built_binary("release", "load")?);
    load.args(["--connect", &server.address, "--num-requests", &requests, "--max-concurrency", &concurrency]);
    process::step(&mut load)
}
