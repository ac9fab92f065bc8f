//! Mutation tests of the simulator: each planted bug must be found. The bugs are textual changes to a copy of the core's
//! crates. Knows no details of the simulator.

mod planted;

use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use self::planted::PLANTED;
use crate::planting::Copied;
use crate::process;

/// What the copy holds: the simulator, and whatever it depends on.
const MEMBERS: [&str; 5] =
    ["crates/serving-types", "crates/kv-paging", "crates/scheduler", "crates/engine", "crates/sim"];

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only bugs whose name contains this.
    filter: Option<String>,
    /// Steps within which each bug must be found.
    #[arg(long, default_value_t = 1_000_000)]
    steps: u64,
}

/// Runs the simulator on a sound copy, where it must find nothing, then with one planted bug at a time.
pub(crate) fn run(args: &Args) -> Result<()> {
    let copy = Copied::new("mutants", &MEMBERS, &[])?;
    if let Some(failure) = simulate(&copy, args.steps)? {
        bail!("without any planted bug, {failure}");
    }
    let filter = args.filter.as_deref().unwrap_or_default();
    let mut survivors = Vec::new();
    for bug in PLANTED.iter().filter(|bug| bug.name.contains(filter)) {
        let sound = copy.plant(bug)?;
        let failure = simulate(&copy, args.steps).with_context(|| format!("with the bug \"{}\"", bug.name))?;
        sound.restore()?;
        match failure {
            Some(failure) => println!("found     {}: {failure}", bug.name),
            None => {
                println!("NOT FOUND {}", bug.name);
                survivors.push(bug.name);
            }
        }
    }
    ensure!(survivors.is_empty(), "not found in {} steps: {}", args.steps, survivors.join("; "));
    Ok(())
}

/// What the simulator finds in so many steps; `None` if nothing.
fn simulate(copy: &Copied, num_steps: u64) -> Result<Option<String>> {
    let mut build = copy.cargo();
    // Planted bugs leave things unused.
    build.args(["build", "--offline", "--quiet", "--profile", "sim", "--package", "sim", "--example", "simulate"]);
    process::read_output(&mut build)?;
    let simulate = copy.target_directory().join("sim/examples/simulate");
    let simulate = simulate.with_extension(std::env::consts::EXE_EXTENSION);
    let output = Command::new(simulate).args(["0", &num_steps.to_string()]).output()?;
    if output.status.success() {
        return Ok(None);
    }
    let report = String::from_utf8_lossy(&output.stdout);
    let failure = report.split("\nagain: ").next().filter(|failure| failure.starts_with("seed "));
    let failure = failure.context("the simulator ended without a report")?;
    Ok(Some(failure.split_whitespace().collect::<Vec<_>>().join(" ")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn planted_bugs_have_their_place() {
        crate::planting::check_places(&super::PLANTED);
    }
}
