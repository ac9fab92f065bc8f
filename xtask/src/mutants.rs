//! Mutation tests of the simulator: each planted bug must be found. The bugs are textual changes to a copy of the core's
//! crates, so that the product holds no switch for any of them. Knows no details of the simulator.

mod planted;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use self::planted::{PLANTED, PlantedBug};
use crate::process;

/// What the copy holds: the simulator, and whatever it depends on.
const CRATES: [&str; 5] = ["serving-types", "kv-paging", "scheduler", "engine", "sim"];

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
    let workspace = Workspace::copy()?;
    if let Some(failure) = workspace.simulate(args.steps)? {
        bail!("without any planted bug, {failure}");
    }
    let filter = args.filter.as_deref().unwrap_or_default();
    let mut survivors = Vec::new();
    for bug in PLANTED.iter().filter(|bug| bug.name.contains(filter)) {
        let sound = workspace.plant(bug)?;
        let failure = workspace.simulate(args.steps).with_context(|| format!("with the bug \"{}\"", bug.name))?;
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

/// A copy of the core's crates that builds offline. Lies among the build results, so that the next run builds less.
struct Workspace {
    root: PathBuf,
}

/// A file as it was.
struct Sound {
    path: PathBuf,
    text: String,
}

impl Workspace {
    fn copy() -> Result<Self> {
        let from = process::repository_root();
        let workspace = Self { root: process::target_directory()?.join("mutants") };
        let root = &workspace.root;
        if root.join("crates").exists() {
            fs::remove_dir_all(root.join("crates"))?;
        }
        for name in CRATES {
            copy_folder(&from.join("crates").join(name), &root.join("crates").join(name))?;
        }
        fs::copy(from.join("Cargo.lock"), root.join("Cargo.lock"))?;
        let manifest = fs::read_to_string(from.join("Cargo.toml"))?;
        let is_kept = |line: &&str| !line.starts_with("default-members = ");
        let mut lines: Vec<&str> = manifest.lines().filter(is_kept).collect();
        let members = lines.iter_mut().find(|line| line.starts_with("members = "));
        *members.context("the root manifest has a line of members")? = "members = [\"crates/*\"]";
        fs::write(root.join("Cargo.toml"), lines.join("\n"))?;
        Ok(workspace)
    }

    /// Changes one place.
    fn plant(&self, bug: &PlantedBug) -> Result<Sound> {
        let path = self.root.join(bug.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", bug.file))?;
        fs::write(&path, bug.apply(&text)?)?;
        Ok(Sound { path, text })
    }

    /// What the simulator finds in so many steps; `None` if nothing.
    fn simulate(&self, num_steps: u64) -> Result<Option<String>> {
        let mut build = self.cargo();
        // Planted bugs leave things unused.
        build.args(["build", "--offline", "--quiet", "--profile", "sim", "--package", "sim", "--example", "simulate"]);
        process::read_output(&mut build)?;
        let simulate = self.root.join("target/sim/examples/simulate").with_extension(std::env::consts::EXE_EXTENSION);
        let output = Command::new(simulate).args(["0", &num_steps.to_string()]).output()?;
        if output.status.success() {
            return Ok(None);
        }
        let report = String::from_utf8_lossy(&output.stdout);
        let failure = report.split("\nagain: ").next().filter(|failure| failure.starts_with("seed "));
        let failure = failure.context("the simulator ended without a report")?;
        Ok(Some(failure.split_whitespace().collect::<Vec<_>>().join(" ")))
    }

    fn cargo(&self) -> Command {
        let mut cargo = process::cargo();
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", self.root.join("target"));
        cargo
    }
}

impl Sound {
    fn restore(self) -> Result<()> {
        Ok(fs::write(self.path, self.text)?)
    }
}

/// Copies the files that make a crate.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bug whose place is gone says so here, long before anybody runs the simulator on it.
    #[test]
    fn planted_bugs_have_their_place() {
        for bug in PLANTED {
            let text = fs::read_to_string(process::repository_root().join(bug.file)).expect("the file is there");
            let planted = bug.apply(&text).unwrap_or_else(|error| panic!("{error:#}"));
            assert_ne!(planted, text, "\"{}\" changes nothing", bug.name);
        }
    }
}
