//! Recorded measurements: `benches/record/<machine>/<date>.jsonl`, one row of JSON each, with all that is needed to judge it
//! later. Knows no benchmark.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::goals::Goals;
use super::machine::Machine;
use super::measured::Measured;
use crate::process;

/// Where rows are kept, from the repository's root.
const FOLDER: &str = "benches/record";

/// One line of a record.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    median: f64,
    spread: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    elements: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
    commit: &'a str,
    command: &'a str,
    machine: &'a Machine,
    rustc: &'a str,
}

/// What all rows of a run have in common.
pub(super) struct Recorder {
    commit: String,
    command: String,
    machine: Machine,
    rustc: String,
    date: String,
}

impl Recorder {
    /// Asks what is measured here, and on what.
    pub(super) fn new(command: String) -> Result<Self> {
        let ask = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.current_dir(process::repository_root()).args(arguments);
            Ok::<_, anyhow::Error>(process::read_output(&mut command)?.trim().to_string())
        };
        let head = ask("git", &["rev-parse", "--short=12", "HEAD"])?;
        // Rows that were recorded before change nothing that is measured.
        let changes = ask("git", &["status", "--porcelain", "--", ".", &format!(":!{FOLDER}")])?;
        Ok(Self {
            commit: if changes.is_empty() { head } else { format!("{head}-dirty") },
            command,
            machine: Machine::this()?,
            rustc: ask("rustc", &["--version"])?,
            date: ask("date", &["-u", "+%F"])?,
        })
    }

    /// Appends a row for each measurement to the file of this machine and day.
    pub(super) fn append(&self, measured: &[Measured], goals: &Goals<'_>) -> Result<PathBuf> {
        let folder = process::repository_root().join(FOLDER).join(self.machine.name());
        let path = folder.join(&self.date).with_extension("jsonl");
        let lines = self.lines(measured, goals)?;
        append_to(&path, &lines).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The rows, each in a line.
    fn lines(&self, measured: &[Measured], goals: &Goals<'_>) -> Result<String> {
        let mut lines = String::new();
        for measured in measured {
            let row = Row {
                name: &measured.name,
                median: rounded(measured.median_ns),
                spread: rounded(measured.spread_ns),
                unit: "ns",
                elements: measured.num_elements,
                goal: goals.text(&measured.name),
                met: goals.is_met(measured),
                commit: &self.commit,
                command: &self.command,
                machine: &self.machine,
                rustc: &self.rustc,
            };
            lines += &serde_json::to_string(&row)?;
            lines.push('\n');
        }
        Ok(lines)
    }
}

fn append_to(path: &Path, lines: &str) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().expect("a record lies in a folder"))?;
    fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(lines.as_bytes())
}

/// To three places: no clock here is better.
fn rounded(ns: f64) -> f64 {
    (ns * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_was_measured_where_and_by_what() {
        let recorder = Recorder {
            commit: "0123456789ab-dirty".into(),
            command: "cargo xtask bench micro --record".into(),
            machine: Machine::of("AMD EPYC", 2),
            rustc: "rustc 1.95.0".into(),
            date: "2026-01-31".into(),
        };
        let measured = [
            Measured {
                name: "kv-paging/take+give of a block".into(),
                median_ns: 8.81049,
                spread_ns: 0.5,
                num_elements: None,
            },
            Measured { name: "sampling/greedy".into(), median_ns: 2000.0, spread_ns: 10.0, num_elements: Some(4) },
        ];
        let lines = recorder.lines(&measured, &Goals::of(&measured)).expect("a row can be written");
        let common = r#""commit":"0123456789ab-dirty","command":"cargo xtask bench micro --record","machine":{"cpu":"AMD EPYC","cores":2},"rustc":"rustc 1.95.0"}"#;
        let (first, second) = (
            r#"{"name":"kv-paging/take+give of a block","median":8.81,"spread":0.5,"unit":"ns","goal":"at most 20 ns","met":true,"#,
            r#"{"name":"sampling/greedy","median":2000.0,"spread":10.0,"unit":"ns","elements":4,"#,
        );
        assert_eq!(lines, format!("{first}{common}\n{second}{common}\n"));
    }
}
