//! The demo model in the user's cache, fetched by `pagewise pull`. Knows no URL and no checksum.

use std::process::Command;

use anyhow::Result;

use crate::process;

/// The name under which `pagewise` keeps the demo model.
pub(crate) const DEMO_MODEL: &str = "smollm2-135m-instruct";

/// Set where tests without the real weights must fail instead of being skipped.
const REQUIRE_MODEL: &str = "PAGEWISE_REQUIRE_MODEL";

/// Builds `pagewise` in the dev profile and has it fetch the demo model.
pub(crate) fn run() -> Result<()> {
    process::run(process::cargo().args(["run", "--quiet", "--package", "pagewise", "--", "pull", DEMO_MODEL]))
}

/// Fetches the demo model with the binary that was built along with the tests. Where that fails, tests of real weights
/// are skipped, unless they are required.
pub(crate) fn for_tests() -> Result<()> {
    if std::env::var_os("PAGEWISE_TEST_MODEL").is_some() {
        return Ok(());
    }
    let pulled = process::step(Command::new(process::built_binary("debug", "pagewise")?).args(["pull", DEMO_MODEL]));
    match pulled {
        Err(error) if std::env::var_os(REQUIRE_MODEL).is_none() => {
            eprintln!("warning: {error:#}; tests on real weights will be skipped");
            Ok(())
        }
        outcome => outcome,
    }
}
