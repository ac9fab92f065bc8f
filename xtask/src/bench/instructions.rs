//! `cargo xtask bench instructions`: how many instructions the control plane takes for what it does once a step or a request.
//! valgrind's callgrind counts them, so they do not depend on what else the machine does. Knows no benchmark's code.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::record::{Origin, Recorder};
use super::recorded::{self, Recorded, figure};
use super::{benchmark, contender};
use crate::process;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only benchmarks whose name contains this.
    filter: Option<String>,
    /// Append a row for each to `benches/record/<machine>/<date>.jsonl`.
    #[arg(long)]
    record: bool,
    /// Fail if one takes more than when it was last recorded on this machine with this compiler.
    #[arg(long)]
    check: bool,
}

/// Each benchmark is run with so many iterations, and with so many more: the difference holds nothing of what comes before
/// the first and after the last. Both fit into one round of requests, and lie whole blocks of 16 tokens apart.
const FEW: u64 = 32;
const MANY: u64 = 272;

/// A share by which a count may grow: linking may place code otherwise, the work is the same each time.
const SLACK: f64 = 0.02;

/// What to do where the counter is missing.
pub(super) const NO_VALGRIND: &str = "valgrind, which counts the instructions, is not installed";

/// The instructions of one iteration.
#[derive(Serialize)]
pub(super) struct Counted {
    name: String,
    value: f64,
    unit: &'static str,
}

/// Counts and prints them. With `--check`, fails if one has grown.
pub(super) fn run(args: &Args) -> Result<()> {
    ensure!(contender::in_path("valgrind").is_some(), "{NO_VALGRIND}");
    // Before this run adds to it.
    let before = recorded::read()?;
    let program = benchmark::build(process::cargo(), "benches", "micro")?;
    let names = process::read_output(Command::new(&program).arg("counted"))?;
    let filter = args.filter.as_deref().unwrap_or_default();
    let names: Vec<&str> = names.lines().filter(|name| name.contains(filter)).collect();
    ensure!(!names.is_empty(), "no benchmark has a name like {filter:?}");
    let recorder = Recorder::new(command_line(args), Origin::here()?)?;
    let (mut counted, mut grown) = (Vec::new(), Vec::new());
    for name in names {
        let now = Counted::count(&program, name)?;
        let last = before.iter().rev().find(|row| row.name == now.name && recorder.is_alike(row));
        println!("{}", now.line(last));
        grown.extend(last.and_then(|last| now.growth_beyond_slack(last)));
        counted.push(now);
    }
    if args.record {
        let path = recorder.append(&counted)?;
        eprintln!("\n{} rows in {}", counted.len(), path.display());
    }
    ensure!(!args.check || grown.is_empty(), "{}", grown.join("; "));
    Ok(())
}

impl Counted {
    /// Counts those of a benchmark of this program.
    pub(super) fn count(program: &Path, name: &str) -> Result<Self> {
        let count = |iterations: u64| {
            let mut command = Command::new("valgrind");
            command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
            command.arg(program).args(["counted", name, &iterations.to_string()]);
            collected(&process::read_errors(&mut command)?)
        };
        let difference = count(MANY)?.checked_sub(count(FEW)?).context("more iterations took fewer instructions")?;
        let value = (difference as f64 / (MANY - FEW) as f64 * 10.0).round() / 10.0;
        Ok(Self { name: format!("instructions/{name}"), value, unit: "instructions" })
    }

    /// The share by which it has grown since then.
    fn growth(&self, last: &Recorded) -> Option<f64> {
        Some(self.value / last.figures().first()? - 1.0)
    }

    /// The same as a sentence, if it is too much.
    pub(super) fn growth_beyond_slack(&self, last: &Recorded) -> Option<String> {
        let growth = self.growth(last).filter(|growth| *growth > SLACK)?;
        Some(format!("{} takes {:.1} % more than at {}", self.name, 100.0 * growth, last.commit))
    }

    fn line(&self, last: Option<&Recorded>) -> String {
        let beside = last.and_then(|last| Some((self.growth(last)?, &last.commit)));
        let beside = beside.map(|(growth, commit)| format!("   {:>+6.2} % since {commit}", 100.0 * growth));
        format!("{:<76} {:>12}{}", self.name, figure(self.value), beside.unwrap_or_default())
    }
}

/// What callgrind wrote that it has collected: `==123== Collected : 4567`.
fn collected(said: &str) -> Result<u64> {
    let figure = said.lines().find_map(|line| line.split_once("Collected :")).map(|(_, figure)| figure.trim());
    figure.and_then(|figure| figure.parse().ok()).with_context(|| format!("callgrind said no number: {said}"))
}

/// The command that counted, as one would type it.
fn command_line(args: &Args) -> String {
    let filter = args.filter.as_ref().map(|filter| format!(" {filter:?}")).unwrap_or_default();
    format!("cargo xtask bench instructions --record{filter}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callgrind_is_understood() {
        let said =
            "==7== Callgrind, a call-graph generating cache profiler\n==7== Events    : Ir\n==7== Collected : 12345\n";
        assert_eq!(collected(said).expect("it holds a number"), 12_345);
        assert!(collected("==7== Collected : many").is_err() && collected("").is_err());
    }

    #[test]
    fn more_than_the_slack_is_named() {
        let row = r#"{"name":"instructions/a","value":1000,"unit":"instructions","commit":"c","command":"c"}"#;
        let last = &recorded::parse(row, "m", "2026-01-31").expect("a row")[0];
        let check = |value, expected: Option<&str>| {
            let counted = Counted { name: "instructions/a".into(), value, unit: "instructions" };
            assert_eq!(counted.growth_beyond_slack(last).as_deref(), expected);
        };
        check(1019.0, None);
        check(500.0, None);
        check(1200.0, Some("instructions/a takes 20.0 % more than at c"));
    }
}
