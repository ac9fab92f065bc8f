//! The program that times the ops of a step: it is built and run, and what it printed is read. Knows no op's code and no limit's
//! meaning.

use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::measured::Measured;
use super::roof::Cost;
use crate::process;

/// How it is called.
#[derive(Clone, Default)]
pub(super) struct Asking {
    /// Only ops with this in their name.
    pub(super) filter: Option<String>,
    /// Models by name; without any, those that the program chooses.
    pub(super) models: Vec<String>,
    pub(super) quick: bool,
    pub(super) limits: Limits,
}

/// Whether the program measures the machine's limits too.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Limits {
    #[default]
    Measured,
    NotAsked,
}

/// All that it printed.
#[derive(Default)]
pub(super) struct Printed {
    pub(super) device: Option<Device>,
    pub(super) limits: Vec<Limit>,
    pub(super) steps: Vec<Step>,
    pub(super) ops: Vec<Measured>,
}

/// What everything was measured on.
#[derive(Clone, Deserialize)]
pub(super) struct Device {
    pub(super) kind: String,
    pub(super) description: String,
}

/// What it does at most.
#[derive(Clone, Deserialize)]
pub(super) struct Limit {
    pub(super) limit: String,
    pub(super) per_second: f64,
}

/// A decode step, counted.
#[derive(Clone, Deserialize)]
pub(super) struct Step {
    pub(super) model: String,
    pub(super) rows: u32,
    /// Tokens of each row.
    pub(super) context: u32,
    pub(super) ops: Vec<Counted>,
}

/// An op of a step, and what all its calls cost together.
#[derive(Clone, Deserialize)]
pub(super) struct Counted {
    #[serde(flatten)]
    pub(super) cost: Cost,
}

/// What an op is, and what it costs, as it is recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Op {
    pub(super) model: String,
    pub(super) op: String,
    pub(super) format: String,
    pub(super) shape: String,
    pub(super) rows: u32,
    #[serde(flatten)]
    pub(super) cost: Cost,
}

/// One line that it printed.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Device(Device),
    Limit(Limit),
    Step(Step),
    Op(OpLine),
}

#[derive(Deserialize)]
struct OpLine {
    name: String,
    median_ns: f64,
    spread_ns: f64,
    #[serde(flatten)]
    op: Op,
}

/// Builds the program and runs it on this machine's processors.
pub(super) fn run(asking: &Asking) -> Result<Printed> {
    process::step(process::cargo().args(["build", "--release", "--package", "benches", "--bin", "ops"]))?;
    let mut command = Command::new(process::built_binary("release", "ops")?);
    command.args(["--device", "cpu"]).args(asking.quick.then_some("--quick"));
    command.args((asking.limits == Limits::NotAsked).then_some("--no-limits"));
    for model in &asking.models {
        command.args(["--model", model]);
    }
    if let Some(filter) = &asking.filter {
        command.args(["--filter", filter]);
    }
    parse(&process::read_output(command.stdin(Stdio::null()))?)
}

/// Reads what it printed, here or elsewhere.
pub(super) fn parse(text: &str) -> Result<Printed> {
    let mut printed = Printed::default();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line).with_context(|| format!("line {number} is none that `ops` prints"))? {
            Line::Device(device) => printed.device = Some(device),
            Line::Limit(limit) => printed.limits.push(limit),
            Line::Step(step) => printed.steps.push(step),
            Line::Op(line) => printed.ops.push(line.measured()),
        }
    }
    Ok(printed)
}

impl OpLine {
    fn measured(self) -> Measured {
        let Self { name, median_ns, spread_ns, op } = self;
        Measured { name, median_ns, spread_ns, num_elements: None, op: Some(op) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_program_prints_is_read() {
        let text = r#"
            {"device":{"kind":"cpu","description":"cpu, 2 threads, avx2"}}
            {"limit":{"limit":"memory","per_second":7e10}}
            {"step":{"model":"m","rows":8,"context":192,"ops":[{"op":"qkv","times":30,"memory_bytes":5,"cache_bytes":7,"operations":6,"arithmetic":"int8_dot"}]}}
            {"op":{"name":"ops/m/qkv, Q4_1, 8 rows","model":"m","op":"qkv","format":"Q4_1","shape":"8 x 576 -> 960","rows":8,"median_ns":100.5,"spread_ns":1.5,"samples":9,"memory_bytes":5,"cache_bytes":7,"operations":6,"arithmetic":"int8_dot"}}
        "#;
        let printed = parse(text).expect("it is what the program prints");
        assert_eq!(printed.device.expect("a device").kind, "cpu");
        assert_eq!(printed.limits[0].per_second, 7e10);
        assert_eq!((printed.steps[0].rows, printed.steps[0].ops[0].cost.memory_bytes), (8, 5));
        let op = &printed.ops[0];
        assert_eq!((op.name.as_str(), op.median_ns, op.spread_ns), ("ops/m/qkv, Q4_1, 8 rows", 100.5, 1.5));
        let cost = Cost { memory_bytes: 5, cache_bytes: 7, operations: 6, arithmetic: "int8_dot".into() };
        assert_eq!(op.op.as_ref().map(|op| (op.rows, &op.cost)), Some((8, &cost)));
        let error = parse("{}").err().expect("an empty line says nothing").to_string();
        assert!(error.contains("line 1"), "{error}");
    }
}
