//! The tests: built once, real weights fetched, doctests, then everything else. Knows no single test.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{checks, kernels, libclang, process, pull_demo};

/// Features that are off by default, because the demo must not compile them, and that tests cover.
pub(crate) const FEATURES: [&str; 2] = ["--features", "xtask/codegen"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this, and no check.
    filter: Option<String>,
}

/// Runs `cargo xtask test`: all checks, then all tests; with a filter only the tests that it names. Where the demo model
/// cannot be fetched, tests on real weights are skipped.
pub(crate) fn run(args: &Args) -> Result<()> {
    if args.filter.is_none() {
        checks::run()?;
    }
    build()?;
    if let Err(error) = pull_demo::for_tests() {
        eprintln!("warning: {error:#}; tests on real weights will be skipped");
    }
    run_tests(args.filter.as_deref(), None)
}

/// Runs `cargo xtask ci`: all checks and all tests, and no test of real weights may be skipped. Compiles the CUDA kernels,
/// which nothing else here needs.
pub(crate) fn ci() -> Result<()> {
    checks::run()?;
    eprintln!("\n==> kernels");
    let library = kernels::build_for_ci()?;
    build()?;
    pull_demo::for_tests()?;
    run_tests(None, Some(&library))
}

/// Runs what is built; a test loads the kernel library if it is named. The runner's summary is the last thing printed.
fn run_tests(filter: Option<&str>, library: Option<&Path>) -> Result<()> {
    if filter.is_none() {
        process::step(process::cargo().args(["test", "--workspace", "--doc", "--quiet"]).args(FEATURES))?;
    }
    let mut tests = process::cargo();
    if has_nextest() {
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast"]).args(FEATURES);
        tests.args(["--status-level", "slow", "--final-status-level", "slow"]);
    } else {
        tests.args(["test", "--workspace", "--lib", "--bins", "--tests", "--no-fail-fast", "--quiet"]).args(FEATURES);
    }
    // The test that compares generated code with its sources needs it for one of them, and passes that over without.
    match libclang::find()? {
        Some(folder) => drop(tests.env(libclang::VARIABLE, folder)),
        None => eprintln!("warning: {}; whether the kernels' bindings are current is not tested", libclang::MISSING),
    }
    if let Some(library) = library {
        tests.env(kernels::LIBRARY_VARIABLE, library);
    }
    process::step(tests.args(filter))
}

/// Builds all tests, and with them the binaries that some of them run.
pub(crate) fn build() -> Result<()> {
    process::step(process::cargo().args(["test", "--workspace", "--all-targets", "--no-run", "--quiet"]).args(FEATURES))
}

/// Whether `cargo nextest` is installed.
pub(crate) fn has_nextest() -> bool {
    Command::new("cargo-nextest").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}
