//! Pagewise: flags → configuration → wiring → run → drain.
//!
//! The composition root: the only place that knows a concrete backend, the edge and the files of a model at once. Holds no
//! business logic.

mod bench;
mod cache;
mod cli;
mod config_file;
mod device;
mod heap;
mod inspect;
mod interrupts;
mod machine;
mod mmap;
mod model_files;
mod output;
mod phases;
mod progress;
mod pull;
mod report;
mod serve;
mod settings;
mod talk;
mod target;
mod text_file;
mod wiring;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::EnvFilter;

use crate::cli::{BenchCommand, Command};
use crate::output::StdoutClosed;
use crate::phases::Phases;

fn main() -> ExitCode {
    let phases = Phases::begin();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // It would say on stderr, in a panic, that stderr is closed.
        .log_internal_errors(false)
        .init();
    let typed: Vec<OsString> = std::env::args_os().collect();
    match config_file::parse(&typed).and_then(|cli| run(&cli.command, phases)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<StdoutClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            output::note(format_args!("error: {}", output::explain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command, phases: Phases) -> Result<()> {
    match command {
        Command::Serve(args) => block_on(Builder::new_multi_thread(), serve::run(args, phases)),
        Command::Generate(args) => block_on(Builder::new_current_thread(), talk::generate(args)),
        Command::Chat(args) => block_on(Builder::new_current_thread(), talk::chat(args)),
        Command::Pull(args) => block_on(Builder::new_current_thread(), pull::run(args)),
        Command::Inspect(args) => inspect::run(args),
        Command::Bench(BenchCommand::Throughput(args)) => {
            block_on(Builder::new_current_thread(), bench::throughput(args))
        }
        Command::Bench(BenchCommand::HostCopy(args)) => block_on(Builder::new_current_thread(), bench::host_copy(args)),
        Command::Bench(BenchCommand::Quality(args)) => bench::quality(args),
        Command::Bench(BenchCommand::Latency(args)) => block_on(Builder::new_current_thread(), bench::latency(args)),
    }
}

/// Runs a command on a runtime of its own.
fn block_on(mut builder: Builder, command: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime: Runtime = builder.enable_all().build().context("cannot start the async runtime")?;
    let outcome = runtime.block_on(command);
    // A read of stdin, say, or a download that was given up must not hold up the end.
    runtime.shutdown_background();
    outcome
}
