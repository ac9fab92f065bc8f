//! The system's cache of a file's pages: dropped without being root, by GNU's `dd`, and looked at with util-linux's `fincore`.
//! Knows not what the file holds.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process;

/// A file of which less than this share stays in memory is cold.
const COLD_SHARE: f64 = 0.01;

/// Drops a file from the page cache.
///
/// # Errors
/// It is still there, for instance because another process has it mapped, or nobody can say whether it is.
pub(super) fn drop_file(path: &Path) -> Result<()> {
    // Copies nothing, and advises the system that the whole input will not be needed.
    let input = format!("if={}", path.display());
    let mut dd = Command::new("dd");
    dd.args([input.as_str(), "iflag=nocache", "count=0"]).stdout(Stdio::null());
    process::read_output(&mut dd).context("the page cache cannot be dropped here")?;
    let share = resident_share(path)?;
    ensure!(share < COLD_SHARE, "{:.0} % of the file stays in the page cache, whoever uses it", 100.0 * share);
    Ok(())
}

/// How much of a file is in memory, from 0 to 1.
fn resident_share(path: &Path) -> Result<f64> {
    let mut fincore = Command::new("fincore");
    fincore.args(["--bytes", "--noheadings", "--raw", "--output", "RES,SIZE"]).arg(path);
    let said = process::read_output(&mut fincore).context("nobody can say what is in the page cache")?;
    let figures = said.split_whitespace().map(str::parse).collect::<Result<Vec<f64>, _>>();
    match figures.as_deref() {
        Ok(&[resident, size]) if size > 0.0 => Ok(resident / size),
        _ => Err(anyhow::anyhow!("`fincore` said {said:?}")),
    }
}
