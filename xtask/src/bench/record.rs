//! Recorded measurements: `benches/record/<machine>/<date>.jsonl`, one row of JSON each, with all that is needed to judge it
//! later. Knows no benchmark.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::machine::Machine;
use super::recorded::{self, Recorded};
use crate::process;

/// Where rows are kept, from the repository's root.
const FOLDER: &str = "benches/record";

/// The folder of all records.
pub(super) fn folder() -> PathBuf {
    process::repository_root().join(FOLDER)
}

/// One line of a record: what was measured, and what all rows of a run have in common.
#[derive(Serialize)]
struct Line<'a, R> {
    #[serde(flatten)]
    row: &'a R,
    commit: &'a str,
    command: &'a str,
    machine: &'a Machine,
    rustc: &'a str,
}

/// Where rows come from.
pub(super) struct Origin {
    pub(super) machine: Machine,
    /// `None`: what is checked out here.
    pub(super) commit: Option<String>,
}

impl Origin {
    /// This machine, and what is checked out.
    pub(super) fn here() -> Result<Self> {
        Ok(Self { machine: Machine::this()?, commit: None })
    }
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
    /// Asks what is checked out, unless the rows come from another commit.
    pub(super) fn new(command: String, origin: Origin) -> Result<Self> {
        let ask = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.current_dir(process::repository_root()).args(arguments);
            Ok::<_, anyhow::Error>(process::read_output(&mut command)?.trim().to_string())
        };
        let checked_out = || {
            let head = ask("git", &["rev-parse", "--short=12", "HEAD"])?;
            // Rows that were recorded before change nothing that is measured.
            let changes = ask("git", &["status", "--porcelain", "--", ".", &format!(":!{FOLDER}")])?;
            Ok::<_, anyhow::Error>(if changes.is_empty() { head } else { format!("{head}-dirty") })
        };
        Ok(Self {
            commit: origin.commit.map_or_else(checked_out, Ok)?,
            command,
            machine: origin.machine,
            rustc: ask("rustc", &["--version"])?,
            date: ask("date", &["-u", "+%F"])?,
        })
    }

    /// Whether a row was measured on this machine, and of code that this compiler made.
    pub(super) fn is_alike(&self, row: &Recorded) -> bool {
        row.machine == self.machine.name() && row.rustc.as_ref() == Some(&self.rustc)
    }

    /// Appends rows to the file of this machine and day.
    pub(super) fn append<R: Serialize>(&self, rows: &[R]) -> Result<PathBuf> {
        let folder = folder().join(self.machine.name());
        let path = folder.join(&self.date).with_extension("jsonl");
        let lines = self.lines(rows)?;
        append_to(&path, &lines).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The rows as they would be read again.
    pub(super) fn as_recorded<R: Serialize>(&self, rows: &[R]) -> Result<Vec<Recorded>> {
        recorded::parse(&self.lines(rows)?, &self.machine.name(), &self.date)
    }

    /// The rows, each in a line.
    fn lines<R: Serialize>(&self, rows: &[R]) -> Result<String> {
        let mut lines = String::new();
        for row in rows {
            let Self { commit, command, machine, rustc, .. } = self;
            lines += &serde_json::to_string(&Line { row, commit, command, machine, rustc })?;
            lines.push('\n');
        }
        Ok(lines)
    }
}

fn append_to(path: &Path, lines: &str) -> std::io::Result<()> {
    fs::create_dir_all(path.parent().expect("a record lies in a folder"))?;
    fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(lines.as_bytes())
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
        let rows =
            [serde_json::json!({ "name": "a", "median": 8.81 }), serde_json::json!({ "name": "b", "met": true })];
        let lines = recorder.lines(&rows).expect("a row can be written");
        let common = r#""commit":"0123456789ab-dirty","command":"cargo xtask bench micro --record","machine":{"cpu":"AMD EPYC","cores":2},"rustc":"rustc 1.95.0"}"#;
        let (first, second) = (r#"{"name":"a","median":8.81,"#, r#"{"name":"b","met":true,"#);
        assert_eq!(lines, format!("{first}{common}\n{second}{common}\n"));
        let row = serde_json::json!({ "name": "a", "median": 8.81, "unit": "ns" });
        let recorded = recorder.as_recorded(&[row]).expect("it is readable");
        assert!(recorder.is_alike(&recorded[0]));
        assert!(!Recorder { rustc: "rustc 1.96.0".into(), ..recorder }.is_alike(&recorded[0]));
    }
}
