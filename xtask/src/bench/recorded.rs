//! Recorded rows, read again. What all rows have is a name, a commit and a figure or several; the rest depends on what measured
//! them. Knows no benchmark.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ops::Op;
use super::record;

/// A row, as far as tables and plots need it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Recorded {
    /// The folder that it lies in.
    #[serde(skip)]
    pub(super) machine: String,
    /// The day on which it was measured.
    #[serde(skip)]
    pub(super) date: String,
    pub(super) name: String,
    /// One figure, or several that belong together.
    #[serde(alias = "median")]
    value: Value,
    #[serde(default)]
    pub(super) spread: Option<f64>,
    pub(super) unit: String,
    #[serde(default)]
    pub(super) goal: Option<String>,
    #[serde(default)]
    pub(super) met: Option<bool>,
    pub(super) commit: String,
    pub(super) command: String,
    #[serde(default)]
    pub(super) rustc: Option<String>,
    /// With a peer: the ratios.
    #[serde(default)]
    pub(super) pairs: Vec<f64>,
    #[serde(default)]
    pub(super) pagewise: Option<Side>,
    #[serde(default)]
    pub(super) peer: Option<Side>,
    /// With a search for the highest rate: the rates.
    #[serde(default)]
    pub(super) sweep: Option<Sweep>,
    /// With an op of a step: what it is and costs.
    #[serde(default)]
    pub(super) op: Option<Op>,
    /// With a limit of the machine: which. The figure is in thousands of millions a second.
    #[serde(default)]
    pub(super) limit: Option<String>,
    /// With a whole step: what the limits allow.
    #[serde(default)]
    pub(super) step: Option<Step>,
    /// Of a figure that is a sum, such as the time until the first token: what follows each other, or lies beside each other,
    /// in its unit.
    #[serde(default)]
    pub(super) parts: Vec<Part>,
}

/// A decode step, counted and beside its bound.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Step {
    pub(super) memory_bytes: u64,
    pub(super) operations: u64,
    pub(super) bound_ms: f64,
    #[serde(default)]
    pub(super) share: Option<f64>,
}

/// One summand of a figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) value: f64,
}

/// How one server took rate after rate.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Sweep {
    pub(super) workload: String,
    pub(super) server: String,
    pub(super) points: Vec<Point>,
}

/// One rate.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Point {
    pub(super) rate_per_s: f64,
    pub(super) ttft_p99_ms: f64,
    pub(super) itl_p99_ms: f64,
}

/// One server's part of a comparison.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Side {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) flags: String,
    pub(super) median: f64,
    pub(super) unit: String,
}

impl Recorded {
    /// Its figures, at least one.
    pub(super) fn figures(&self) -> Vec<f64> {
        match &self.value {
            Value::Array(values) => values.iter().filter_map(Value::as_f64).collect(),
            value => value.as_f64().into_iter().collect(),
        }
    }
}

/// All rows of the repository, in the order in which they were recorded on each machine.
pub(super) fn read() -> Result<Vec<Recorded>> {
    let mut rows = Vec::new();
    for machine in sorted(&record::folder())? {
        for file in sorted(&machine)? {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let name = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            rows.extend(parse(&text, &name(&machine), &name(&file)).with_context(|| file.display().to_string())?);
        }
    }
    Ok(rows)
}

fn sorted(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

pub(super) fn parse(text: &str, machine: &str, date: &str) -> Result<Vec<Recorded>> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            let row: Recorded = serde_json::from_str(line).with_context(|| format!("line {number}"))?;
            Ok(Recorded { machine: machine.to_string(), date: date.to_string(), ..row })
        })
        .collect()
}

/// A figure with as many digits as its size deserves.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000.0 => with_commas(value.round() as i64),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn with_commas(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    format!("{}{}", if value < 0 { "-" } else { "" }, groups.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recorded_row_is_readable() {
        let rows = read().expect("the repository's rows are readable");
        assert!(rows.iter().all(|row| !row.figures().is_empty()), "a row without a figure");
        assert!(rows.windows(2).all(|pair| pair[0].machine != pair[1].machine || pair[0].date <= pair[1].date));
    }

    #[test]
    fn figures_have_few_digits() {
        let check = |value, expected: &str| assert_eq!(figure(value), expected);
        check(1_234_567.8, "1,234,568");
        check(-98_765.0, "-98,765");
        check(1234.4, "1234");
        check(12.34, "12.3");
        check(1.234, "1.23");
        check(0.0433, "0.043");
    }
}
