//! The demo model in the user's cache, fetched by `pagewise pull`. Knows no URL and no checksum.

use std::process::Command;

use anyhow::Result;

use crate::process;

/// The name under which `pagewise` keeps the demo model.
pub(crate) const DEMO_MODEL: &str = "smollm2-135m-instruct";

/// Builds `pagewise` in the dev profile and has it fetch the demo model.
pub(crate) fn run() -> Result<()> {
    process::run(process::cargo().args(["run", "--quiet", "--package", "pagewise", "--", "pull", DEMO_MODEL]))
}

/// Fetches the demo model with the binary that was built along with the tests, unless the tests look elsewhere for it.
pub(crate) fn for_tests() -> Result<()> {
    if std::env::var_os("PAGEWISE_TEST_MODEL").is_some() {
        return Ok(());
    }
    process::step(Command::new(process::built_binary("debug", "pagewise")?).args(["pull", DEMO_MODEL]))
}
