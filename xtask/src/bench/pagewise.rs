//! Pagewise itself as it is measured, with the demo model. Knows no peer.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

use super::contender::{Contender, Launch};
use crate::process;
use crate::pull_demo::DEMO_MODEL;

/// KV for as many tokens of the demo model as the peers are given, 32,768, in 16 bits.
const KV_BYTES: &str = "720MiB";

/// Builds the server and the load generator together: apart, what both rest on would be compiled twice, for it would have
/// other features each time.
pub(super) fn build() -> Result<()> {
    let what = ["--package", "pagewise", "--bin", "pagewise", "--package", "benches", "--bin", "load"];
    process::step(process::cargo().args(["build", "--release"]).args(what))
}

/// The program, built, and the path of the demo model, fetched.
pub(super) fn program() -> Result<(PathBuf, PathBuf)> {
    build()?;
    let program = process::built_binary("release", "pagewise")?;
    let model = PathBuf::from(process::read_output(Command::new(&program).args(["pull", DEMO_MODEL]))?.trim());
    ensure!(model.is_file(), "`pagewise pull` said {}, and no file is there", model.display());
    Ok((program, model))
}

/// The server with the demo model, and the model's path, which the peers read.
pub(super) fn demo() -> Result<(Contender, PathBuf)> {
    let (program, model) = program()?;
    let version = process::read_output(Command::new(&program).arg("--version"))?;
    let version = version.trim().trim_start_matches("pagewise ").to_string();
    let arguments = ["serve", "--model", &model.display().to_string(), "--kv-cache-memory-bytes", KV_BYTES];
    let arguments = arguments.map(str::to_string).to_vec();
    let launch = Launch::Program { program, arguments, variables: Vec::new() };
    Ok((Contender { name: "pagewise".into(), version, protocol: "grpc", launch }, model))
}
