//! Criterion's micro-benchmarks: runs them, and sets what each measured beside its goal. Knows no benchmark's code.

use std::process::Stdio;
use std::time::SystemTime;

use anyhow::{Result, ensure};

use super::goals::Goals;
use super::machine::Machine;
use super::measured::Measured;
use super::record::Recorder;
use super::{estimates, recorded, regression};
use crate::process;

/// The packages with benchmarks, and the names of these.
const BENCHMARKS: [(&str, &str); 2] = [("kv-paging", "kv_paging"), ("benches", "micro")];

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only benchmarks whose name matches this regular expression.
    filter: Option<String>,
    /// Measure briefly.
    #[arg(long)]
    quick: bool,
    /// Append a row for each measurement to `benches/record/<machine>/<date>.jsonl`.
    #[arg(long)]
    record: bool,
    /// Fail if a goal is missed, or a benchmark is slower than its last row of this machine by more than the noise.
    #[arg(long)]
    check: bool,
}

/// Runs the benchmarks. Everything that is printed goes to stderr.
pub(crate) fn run(args: &Args) -> Result<()> {
    // Before this run adds to it.
    let before = recorded::read()?;
    let measured = measure(args)?;
    let goals = Goals::of(&measured);
    eprintln!();
    for row in &measured {
        eprintln!("{:<62} {:>18}   {}", row.name, row.figure(), goals.verdict(row));
    }
    if args.record {
        let rows: Vec<_> = measured.iter().map(|measured| measured.row(&goals)).collect();
        let path = Recorder::new(command_line(args))?.append(&rows)?;
        eprintln!("\n{} rows in {}", measured.len(), path.display());
    }
    if args.filter.is_none() {
        // Or a benchmark that was renamed would lose its goal unnoticed.
        let unmeasured = goals.unmeasured();
        ensure!(unmeasured.is_empty(), "no benchmark measures {}", unmeasured.join("; "));
    }
    if args.check {
        let missed = measured.iter().filter(|row| goals.is_met(row) == Some(false));
        let missed = missed.map(|row| format!("{} missed its goal", row.name));
        let slower = regression::find(&measured, &before, &Machine::this()?.name());
        let problems: Vec<String> = missed.chain(slower).collect();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
    }
    Ok(())
}

/// Runs what is asked for, and reads what came of it.
fn measure(args: &Args) -> Result<Vec<Measured>> {
    let started = SystemTime::now();
    for (package, benchmark) in BENCHMARKS {
        let mut bench = process::cargo();
        bench.args(["bench", "--package", package, "--bench", benchmark, "--"]);
        bench.args(args.quick.then_some("--quick")).args(&args.filter);
        // Stdout is for the figures of a load run.
        process::step(bench.stdout(Stdio::from(std::io::stderr())))?;
    }
    let measured = estimates::read(&process::target_directory()?.join("criterion"), started)?;
    ensure!(!measured.is_empty(), "no benchmark has a name like {:?}", args.filter.as_deref().unwrap_or_default());
    Ok(measured)
}

/// The command that measured, as one would type it.
fn command_line(args: &Args) -> String {
    let mut line = "cargo xtask bench micro --record".to_string();
    if args.quick {
        line += " --quick";
    }
    if let Some(filter) = &args.filter {
        line += &format!(" {filter:?}");
    }
    line
}
