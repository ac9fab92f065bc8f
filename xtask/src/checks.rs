//! Everything that a change must pass beside its tests, cheapest first, so that most mistakes are told early. Knows no
//! details of any check.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{process, test, tidy};

/// Another kind of processor than most develop on.
const OTHER_TARGET: &str = "aarch64-unknown-linux-gnu";

/// Runs every check; stops at the first that fails.
///
/// Clippy and the docs share one set of checked dependencies, in the dev profile. Whether the generated code is current is
/// a test of this crate, since only the tests are built with the generators.
pub(crate) fn run() -> Result<()> {
    process::step(process::cargo().args(["fmt", "--all", "--check"]))?;
    eprintln!("\n==> tidy");
    tidy::run()?;
    process::step(
        process::cargo()
            .args(["clippy", "--workspace", "--all-targets"])
            .args(test::FEATURES)
            .args(["--", "--deny", "warnings"]),
    )?;
    process::step(
        process::cargo()
            .args(["doc", "--workspace", "--no-deps"])
            .args(test::FEATURES)
            .env("RUSTDOCFLAGS", "--deny warnings"),
    )?;
    other_target()
}

/// Checks the one crate that knows processors for another one, where the compiler has its standard library.
fn other_target() -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.current_dir(process::repository_root()).args(["--print", "target-libdir", "--target", OTHER_TARGET]);
    if !Path::new(process::read_output(&mut rustc)?.trim()).is_dir() {
        eprintln!(
            "\nwarning: backend-cpu is not checked for {OTHER_TARGET}; `rustup target add {OTHER_TARGET}` enables that"
        );
        return Ok(());
    }
    process::step(
        process::cargo()
            .args(["clippy", "--target", OTHER_TARGET, "--package", "backend-cpu"])
            .args(["--", "--deny", "warnings"]),
    )
}
