//! Bugs planted into a copy of some of the repository's crates, so that the product holds no switch for any of them. Knows
//! neither the bugs nor who is to find them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::process;

/// One bug: a textual change at one place.
pub(crate) struct PlantedBug {
    pub(crate) name: &'static str,
    /// The file, from the repository's root.
    pub(crate) file: &'static str,
    /// What stands there exactly once.
    pub(crate) sound: &'static str,
    /// What is put in its place.
    pub(crate) broken: &'static str,
}

impl PlantedBug {
    /// The file's text with the bug.
    pub(crate) fn apply(&self, text: &str) -> Result<String> {
        let count = text.matches(self.sound).count();
        ensure!(count == 1, "\"{}\": {count} places in {} read `{}`, not one", self.name, self.file, self.sound);
        Ok(text.replace(self.sound, self.broken))
    }
}

/// A copy of some members of the workspace that builds offline. Lies among the build results and has build results of its own,
/// so that the next run builds less, and nothing planted comes into what is built of the repository itself.
pub(crate) struct Copied {
    root: PathBuf,
}

/// A file as it was.
pub(crate) struct Sound {
    path: PathBuf,
    text: String,
}

impl Copied {
    /// A copy under this name of these members of the workspace, which depend on no others, and of folders that they read.
    pub(crate) fn new(name: &str, members: &[&str], folders: &[&str]) -> Result<Self> {
        let from = process::repository_root();
        let root = process::target_directory()?.join(name);
        for folder in members.iter().chain(folders) {
            if root.join(folder).exists() {
                fs::remove_dir_all(root.join(folder))?;
            }
            copy_folder(&from.join(folder), &root.join(folder))?;
        }
        fs::copy(from.join("Cargo.lock"), root.join("Cargo.lock"))?;
        let manifest = fs::read_to_string(from.join("Cargo.toml"))?;
        fs::write(root.join("Cargo.toml"), with_members(&manifest, members)?)?;
        Ok(Self { root })
    }

    /// Changes one place.
    pub(crate) fn plant(&self, bug: &PlantedBug) -> Result<Sound> {
        let path = self.root.join(bug.file);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", bug.file))?;
        fs::write(&path, bug.apply(&text)?)?;
        Ok(Sound { path, text })
    }

    /// A cargo that builds the copy.
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = process::cargo();
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", self.target_directory());
        cargo
    }

    pub(crate) fn target_directory(&self) -> PathBuf {
        self.root.join("target")
    }
}

impl Sound {
    pub(crate) fn restore(self) -> Result<()> {
        Ok(fs::write(self.path, self.text)?)
    }
}

/// The root manifest with no other members than these.
fn with_members(manifest: &str, members: &[&str]) -> Result<String> {
    let is_kept = |line: &&str| !line.starts_with("default-members = ");
    let mut lines: Vec<String> = manifest.lines().filter(is_kept).map(str::to_string).collect();
    let line = lines.iter_mut().find(|line| line.starts_with("members = "));
    *line.context("the root manifest has a line of members")? = format!("members = {members:?}");
    Ok(lines.join("\n"))
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

/// A bug whose place is gone says so in a test, long before anybody builds with it.
#[cfg(test)]
pub(crate) fn check_places(bugs: &[PlantedBug]) {
    for bug in bugs {
        let text = fs::read_to_string(process::repository_root().join(bug.file)).expect("the file is there");
        let planted = bug.apply(&text).unwrap_or_else(|error| panic!("{error:#}"));
        assert_ne!(planted, text, "\"{}\" changes nothing", bug.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_has_no_other_members() {
        let manifest = "[workspace]\nmembers = [\"crates/*\"]\ndefault-members = [\"crates/a\"]\n\n[profile.dev]";
        let expected = "[workspace]\nmembers = [\"crates/b\", \"benches\"]\n\n[profile.dev]";
        assert_eq!(with_members(manifest, &["crates/b", "benches"]).expect("it has members"), expected);
        assert!(with_members("[package]", &[]).is_err());
    }
}
