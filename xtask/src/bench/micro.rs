//! Criterion's micro-benchmarks, and the CPU's ops: runs them, and sets what each measured beside its goal. Knows no
//! benchmark's code.

use std::process::Stdio;
use std::time::SystemTime;

use anyhow::{Result, ensure};

use super::goals::Goals;
use super::machine::Machine;
use super::measured::Measured;
use super::ops::{self, Asking, Limits};
use super::record::{Origin, Recorder};
use super::recorded::{self, Recorded};
use super::{estimates, regression};
use crate::process;

/// The packages with benchmarks, and the names of these.
const BENCHMARKS: [(&str, &str); 2] = [("kv-paging", "kv_paging"), ("benches", "micro")];

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Only benchmarks with this in their name.
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
    let mut measured = measure(args)?;
    let machine = Machine::this()?.name();
    if args.check {
        confirm(&mut measured, &before, &machine)?;
    }
    let goals = Goals::of(&measured);
    eprintln!();
    for row in &measured {
        eprintln!("{:<62} {:>18}   {}", row.name, row.figure(), goals.verdict(row));
    }
    if args.record {
        let rows: Vec<_> = measured.iter().map(|measured| measured.row(&goals)).collect();
        let path = Recorder::new(command_line(args), Origin::here()?)?.append(&rows)?;
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
        let slower = regression::find(&measured, &before, &machine);
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
    let mut measured = estimates::read(&process::target_directory()?.join("criterion"), started)?;
    let (filter, quick) = (args.filter.clone(), args.quick);
    measured.extend(ops::run(&Asking { filter, quick, limits: Limits::NotAsked, ..Asking::default() })?.ops);
    ensure!(!measured.is_empty(), "no benchmark has a name like {:?}", args.filter.as_deref().unwrap_or_default());
    Ok(measured)
}

/// Measures ops once more that were slower than before, since they are many and each is short: what else ran on the machine
/// meanwhile slows some of them. The faster time counts.
fn confirm(measured: &mut [Measured], before: &[Recorded], machine: &str) -> Result<()> {
    for now in measured.iter_mut().filter(|now| now.op.is_some()) {
        if regression::slowdown_of(now, before, machine).is_none() {
            continue;
        }
        let filter = Some(now.name.clone());
        let again = ops::run(&Asking { filter, limits: Limits::NotAsked, ..Asking::default() })?.ops;
        if let Some(again) = again.into_iter().find(|again| again.name == now.name && again.median_ns < now.median_ns) {
            *now = again;
        }
    }
    Ok(())
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
