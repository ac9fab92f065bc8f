//! A program of criterion's benchmarks: built, and found among the build results. Knows none of its benchmarks.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;

/// What cargo says of each thing that it built, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds a benchmark of a package with this cargo, which says where the repository lies.
pub(super) fn build(mut cargo: Command, package: &str, benchmark: &str) -> Result<PathBuf> {
    eprintln!("\n==> cargo bench --no-run --package {package} --bench {benchmark}");
    let start = Instant::now();
    cargo.args(["bench", "--no-run", "--package", package, "--bench", benchmark]);
    let said = process::read_output(cargo.arg("--message-format=json-render-diagnostics"))?;
    eprintln!("    {:.1} s", start.elapsed().as_secs_f64());
    find(&said, benchmark).with_context(|| format!("cargo did not say where the benchmark {benchmark} is"))
}

/// The program in what cargo said, a message a line.
fn find(said: &str, benchmark: &str) -> Option<PathBuf> {
    let messages = said.lines().filter_map(|line| serde_json::from_str::<Message>(line).ok());
    let mut built = messages.filter(|message| message.reason == "compiler-artifact");
    built.find_map(|message| {
        message.executable.filter(|_| message.target.is_some_and(|target| target.name == benchmark))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_found_by_its_name() {
        let said = r#"{"reason":"compiler-artifact","target":{"name":"micro"},"executable":null}
            {"reason":"compiler-artifact","target":{"name":"load"},"executable":"/t/load"}
            {"reason":"compiler-artifact","target":{"name":"micro"},"executable":"/t/micro-1"}
            {"reason":"build-finished","success":true}"#;
        assert_eq!(find(said, "micro"), Some("/t/micro-1".into()));
        assert_eq!(find(said, "other"), None);
    }
}
