//! The tests: built once, real weights fetched, doctests, then everything else. Knows no single test.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::{process, pull_demo};

/// Features that are off by default, because the demo must not compile them, and that tests cover.
pub(crate) const FEATURES: [&str; 2] = ["--features", "xtask/codegen"];

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only tests whose name contains this.
    filter: Option<String>,
}

/// Runs the tests. The runner's summary is the last thing printed.
pub(crate) fn run(args: &Args) -> Result<()> {
    build()?;
    pull_demo::for_tests()?;
    if args.filter.is_none() {
        process::step(process::cargo().args(["test", "--workspace", "--doc", "--quiet"]).args(FEATURES))?;
    }
    let mut tests = process::cargo();
    if has_nextest() {
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast"]).args(FEATURES);
        tests.args(["--status-level", "slow", "--final-status-level", "slow"]);
    } else {
        tests.args(["test", "--workspace", "--all-targets", "--no-fail-fast", "--quiet"]).args(FEATURES);
    }
    process::step(tests.args(&args.filter))
}

/// Builds all tests, and with them the binaries that some of them run.
pub(crate) fn build() -> Result<()> {
    process::step(process::cargo().args(["test", "--workspace", "--all-targets", "--no-run", "--quiet"]).args(FEATURES))
}

/// Whether `cargo nextest` is installed.
pub(crate) fn has_nextest() -> bool {
    Command::new("cargo-nextest").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}
