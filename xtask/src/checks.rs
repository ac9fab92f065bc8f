//! Everything that a change must pass beside its tests, cheapest first, so that most mistakes are told early. Knows no
//! details of any check.

use anyhow::Result;

use crate::{process, test, tidy};

/// Runs every check; stops at the first that fails.
///
/// All steps share the dev profile: clippy and the docs share one set of checked dependencies, the generated code and the
/// tests another, built one. Nothing is built for release.
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
    test::build()?;
    process::step(std::process::Command::new(process::built_binary("debug", "xtask")?).args(["codegen", "--check"]))
}
