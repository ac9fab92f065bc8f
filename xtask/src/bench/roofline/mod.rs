//! `cargo xtask bench roofline`: the ops of a step, and whole decode steps, beside what the machine can do at most. Knows no op's
//! code.

mod step;
mod table;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::conclusion::{Keep, keep_as};
use super::goals::Goals;
use super::machine::Machine;
use super::ops::{self, Asking, Limits, Printed};
use super::record::{Origin, Recorder};
use super::roof::{Roof, is_of_bytes, spoken};
use step::{Latency, StepRow};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only ops with this in their name; then no steps are measured.
    filter: Option<String>,
    /// Ops of this model; may be given several times [default: the demo model].
    #[arg(long, value_name = "NAME", conflicts_with = "rows")]
    model: Vec<String>,
    /// Measure briefly.
    #[arg(long, conflicts_with = "rows")]
    quick: bool,
    /// Run nothing: read what `ops` printed on another machine.
    #[arg(long, value_name = "FILE", requires_all = ["machine", "commit"], conflicts_with = "filter")]
    rows: Option<PathBuf>,
    /// What `pagewise bench latency` printed there, for the steps. May be given several times.
    #[arg(long, value_name = "FILE", requires = "rows")]
    latency: Vec<PathBuf>,
    /// The folder of that machine in `benches/record/`.
    #[arg(long, value_name = "NAME", requires = "rows")]
    machine: Option<String>,
    /// The commit that was measured there.
    #[arg(long, value_name = "HASH", requires = "rows")]
    commit: Option<String>,
    /// Append rows to `benches/record/<machine>/<date>.jsonl`.
    #[arg(long)]
    record: bool,
}

/// A measured limit, as it is recorded.
#[derive(Serialize)]
struct LimitRow {
    name: String,
    value: f64,
    unit: &'static str,
    /// As ops name it.
    limit: String,
}

/// A row of any kind.
#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Limit(LimitRow),
    Op(super::measured::Row<'a>),
    Step(StepRow),
}

/// Measures, or reads, and prints a table to stdout.
pub(super) fn run(args: &Args) -> Result<()> {
    let printed = match &args.rows {
        Some(path) => read(path)?,
        None => ops::run(&Asking {
            filter: args.filter.clone(),
            models: args.model.clone(),
            quick: args.quick,
            limits: Limits::Measured,
        })?,
    };
    ensure!(!printed.ops.is_empty(), "no op has a name like {:?}", args.filter.as_deref().unwrap_or_default());
    let device = printed.device.as_ref().context("the rows do not say what they were measured on")?;
    let roof = Roof::of(printed.limits.iter().map(|limit| (limit.limit.clone(), limit.per_second)));
    ensure!(roof.memory().is_some(), "the rows do not say what the machine does at most");
    let latencies = latencies(args, &printed)?;
    let steps: Vec<StepRow> =
        printed.steps.iter().map(|step| StepRow::of(step, &roof, &latencies)).collect::<Result<_>>()?;

    println!("{}", device.description);
    print!("{}", table::of(&printed, &roof, &steps));

    let goals = Goals::of(&printed.ops);
    let mut rows: Vec<Row<'_>> = printed.limits.iter().map(|limit| Row::Limit(LimitRow::of(limit))).collect();
    rows.extend(printed.ops.iter().map(|op| Row::Op(op.row(&goals))));
    // What was only counted is nothing to record.
    rows.extend(steps.into_iter().filter(StepRow::is_measured).map(Row::Step));
    let recorder = Recorder::new(command_line(args, &device.kind), origin(args, &device.description)?)?;
    keep_as(&recorder, &rows, Keep::if_asked(args.record))
}

fn read(path: &PathBuf) -> Result<Printed> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    ops::parse(&text).with_context(|| path.display().to_string())
}

/// How long decode steps took: here, of the demo model, or as files say.
fn latencies(args: &Args, printed: &Printed) -> Result<Vec<Latency>> {
    if args.rows.is_some() {
        return args.latency.iter().map(|path| Latency::read(path)).collect();
    }
    let of_demo = printed.steps.iter().filter(|step| step.model == step::DEMO_SHAPES);
    let steps: Vec<_> = of_demo.filter(|_| args.filter.is_none()).collect();
    if steps.is_empty() { Ok(Vec::new()) } else { step::measure(&steps) }
}

/// What the rows are of: this machine and commit, unless they come from another.
fn origin(args: &Args, device: &str) -> Result<Origin> {
    match (&args.machine, &args.commit) {
        (Some(machine), Some(commit)) => {
            Ok(Origin { machine: Machine::elsewhere(machine, device)?, commit: Some(commit.clone()) })
        }
        _ => Origin::here(),
    }
}

impl LimitRow {
    /// In units that a person reads.
    fn of(limit: &ops::Limit) -> Self {
        let unit = if is_of_bytes(&limit.limit) { "GB/s" } else { "Gop/s" };
        let value = (limit.per_second / 1e6).round() / 1e3;
        Self { name: format!("limits/{}", spoken(&limit.limit)), value, unit, limit: limit.limit.clone() }
    }
}

/// The command that measured, as one would type it.
fn command_line(args: &Args, device: &str) -> String {
    if args.rows.is_some() {
        let latency = if args.latency.is_empty() { "" } else { ", pagewise bench latency" };
        return format!("ops --device {device}{latency}; cargo xtask bench roofline --rows");
    }
    let mut line = "cargo xtask bench roofline".to_string();
    for model in &args.model {
        line += &format!(" --model {model}");
    }
    if args.quick {
        line += " --quick";
    }
    if let Some(filter) = &args.filter {
        line += &format!(" {filter:?}");
    }
    line
}
