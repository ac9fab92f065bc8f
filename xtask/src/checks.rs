//! Everything that a change must pass beside its tests, cheapest first, so that most mistakes are told early. Knows no
//! details of any check.

use anyhow::Result;

use crate::{process, test, tidy};

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
    )
}
