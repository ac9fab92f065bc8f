//! `cargo xtask dist`: a folder for a machine that has a GPU, its driver and CUDA's libraries, and none of our tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::{kernels, process};

/// What a user of the folder reads first.
const README: &str = include_str!("dist/README.md");

/// Programs: package, kind of target, name.
const PROGRAMS: [[&str; 3]; 4] = [
    ["pagewise", "--bin", "pagewise"],
    ["benches", "--bin", "load"],
    ["benches", "--bin", "ops"],
    ["backend-cuda", "--example", "tune_products"],
];

/// What the folder may take, so that it travels easily. A kernel that is compiled for too much shows here first.
const MAX_BYTES: u64 = 60_000_000;

/// Test programs: package, target, name in the folder.
const TESTS: [[&str; 3]; 3] = [
    ["backend-cuda", "conformance", "conformance"],
    ["model-runner", "suite", "model-runner"],
    ["pagewise", "device_fault", "device-fault"],
];

/// Builds everything and lays it out in target/dist.
pub(crate) fn run() -> Result<()> {
    kernels::build(&kernels::default_archs())?;
    // One at a time: together they would be built with other features than each alone, all anew.
    for [package, kind, name] in PROGRAMS {
        process::step(process::cargo().args(["build", "--release", "--package", package, kind, name]))?;
    }

    let dist = process::target_directory()?.join("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| dist.display().to_string())?;
    }
    for folder in ["bin", "lib", "tests"] {
        fs::create_dir_all(dist.join(folder)).with_context(|| dist.display().to_string())?;
    }
    strip(&kernels::library()?, &dist.join("lib"))?;
    for [_, kind, name] in PROGRAMS {
        let folder = if kind == "--example" { "release/examples" } else { "release" };
        strip(&process::built_binary(folder, name)?, &dist.join("bin"))?;
    }
    for [package, target, name] in TESTS {
        strip_to(&test_program(package, target)?, &dist.join("tests").join(name))?;
    }
    let fixtures = process::repository_root().join("fixtures/smollm2");
    copy_folder(&fixtures, &dist.join("tests/fixtures/smollm2"))?;
    fs::write(dist.join("README.md"), README)?;
    fs::copy(process::repository_root().join("LICENSE"), dist.join("LICENSE"))?;
    let bytes = folder_bytes(&dist)?;
    ensure!(bytes <= MAX_BYTES, "{} has {bytes} bytes, more than the {MAX_BYTES} that it may have", dist.display());
    println!("{} ({:.1} MB)", dist.display(), bytes as f64 / 1e6);
    Ok(())
}

/// Builds a test program and returns its path, which only cargo knows.
fn test_program(package: &str, target: &str) -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.args(["test", "--no-run", "--quiet", "--package", package, "--test", target, "--message-format", "json"]);
    let messages = process::read_output(&mut cargo)?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo names no program of the test {target}"))
}

/// Copies a program or library without its symbols, into a folder.
fn strip(from: &Path, folder: &Path) -> Result<()> {
    strip_to(from, &folder.join(from.file_name().context("a file has a name")?))
}

fn strip_to(from: &Path, to: &Path) -> Result<()> {
    process::run(Command::new("strip").arg("-o").arg(to).arg(from))
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        fs::copy(&path, to.join(path.file_name().context("a file has a name")?))?;
    }
    Ok(())
}

fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.path().is_dir() { folder_bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(bytes)
}
