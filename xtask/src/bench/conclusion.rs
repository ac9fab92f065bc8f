//! What becomes of a run's comparisons: a table on stdout, rows in the record if they are to be kept, and the report with them.
//! Knows no measurement.

use anyhow::Result;
use serde::Serialize;

use super::comparison::{self, Comparison};
use super::record::{Origin, Recorder};
use super::{recorded, report};

/// Whether a run's rows are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    InRecord,
    OnlyInReport,
}

impl Keep {
    pub(super) fn if_asked(record: bool) -> Self {
        if record { Self::InRecord } else { Self::OnlyInReport }
    }
}

/// Prints them and writes them. Their rows are named after the table, and say the command that made them.
pub(super) fn conclude(table: &str, command: String, comparisons: &[Comparison<'_>], keep: Keep) -> Result<()> {
    if comparisons.is_empty() {
        return Ok(());
    }
    println!("{}", comparison::head());
    for comparison in comparisons {
        println!("{}", comparison.line());
    }
    let rows: Vec<_> = comparisons.iter().map(|comparison| comparison.row(table)).collect();
    self::keep(&rows, command, keep)
}

/// Writes rows of a command into the record, if they are to be kept there, and into the report.
pub(super) fn keep<R: Serialize>(rows: &[R], command: String, keep: Keep) -> Result<()> {
    keep_as(&Recorder::new(command, Origin::here()?)?, rows, keep)
}

/// The same, of whatever the recorder says that they are of.
pub(super) fn keep_as<R: Serialize>(recorder: &Recorder, rows: &[R], keep: Keep) -> Result<()> {
    let mut all = recorded::read()?;
    all.extend(recorder.as_recorded(rows)?);
    if keep == Keep::InRecord {
        let path = recorder.append(rows)?;
        eprintln!("\n{} rows in {}", rows.len(), path.display());
    }
    eprintln!("\nthe report:");
    for path in report::write(&all, None)? {
        eprintln!("{}", path.display());
    }
    Ok(())
}
