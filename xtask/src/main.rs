//! Repository automation: `cargo xtask <task>`.
//!
//! A small dispatcher over one module per task. Stays light, because `cargo xtask demo` compiles it first: heavy tools
//! sit behind features. Knows the repository and the commands of `pagewise`, none of its code.

mod bench;
mod checks;
#[cfg(feature = "codegen")]
mod codegen;
mod demo;
mod dist;
mod doctor;
mod kernels;
mod libclang;
mod mutants;
mod planting;
mod process;
mod pull_demo;
mod report;
mod sim;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the Pagewise repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Builds in release, fetches the demo model, starts a server on loopback, and streams one chat answer through gRPC.
    Demo(demo::Args),
    /// Runs every check (format, tidy, clippy, docs, generated code), then all tests, with nextest if it is installed.
    Test(test::Args),
    /// What continuous integration runs: the same, and no test may be skipped for want of the demo model.
    Ci,
    /// Checks the layer table, the sources and the papers.
    Tidy,
    /// Makes the committed generated code: from proto/, and, if there is a libclang, from kernels/include/.
    Codegen {
        /// Write nothing; fail if what is committed is not current.
        #[arg(long)]
        check: bool,
    },
    /// The CUDA kernels: compiler, library, lab programs.
    #[command(subcommand)]
    Kernels(kernels::Task),
    /// Lays out binary, kernel library, device tests and benchmarks for a machine with a GPU, in target/dist.
    Dist,
    /// Says what this machine has, and what that allows.
    Doctor,
    /// Micro-benchmarks, then the demo model under load, beside other engines if they are named.
    Bench(bench::Args),
    /// Plants one bug after the other into a copy of the core, and expects the simulator to find each.
    Mutants(mutants::Args),
    /// Simulates a comparison and writes its page and its plot into docs/.
    Report(report::Args),
    /// Plays random scenarios in the simulator and shrinks the first that fails.
    Sim(sim::Args),
    /// Fetches the demo model into the cache, where the tests look for it.
    PullDemo,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Ci => test::ci(),
        Task::Tidy => tidy::run(),
        Task::Codegen { check } => codegen(check),
        Task::Kernels(task) => kernels::run(&task),
        Task::Dist => dist::run(),
        Task::Doctor => doctor::run(),
        Task::Bench(args) => bench::run(&args),
        Task::Report(args) => report::run(&args),
        Task::Sim(args) => sim::run(&args),
        Task::Mutants(args) => mutants::run(&args),
        Task::PullDemo => pull_demo::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "codegen")]
fn codegen(check: bool) -> anyhow::Result<()> {
    codegen::run(check)
}

/// Without the code generators compiled in, builds the xtask that has them and hands over.
#[cfg(not(feature = "codegen"))]
fn codegen(check: bool) -> anyhow::Result<()> {
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--package", "xtask", "--features", "codegen", "--", "codegen"]);
    if let Some(folder) = libclang::find()? {
        cargo.env(libclang::VARIABLE, folder);
    }
    process::run(cargo.args(check.then_some("--check")))
}
