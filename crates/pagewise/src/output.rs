//! Words to the user: results to stdout, everything else to stderr. Neither may panic, as `println!` does, when whoever
//! reads has gone. Knows no command.

use std::fmt;
use std::io::{self, Write};

use anyhow::{Context, Result};

/// Whoever read stdout has gone, as `head` does when it has enough. Ends the command and is no failure of it.
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stdout is closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Writes to stdout, at once.
///
/// # Errors
/// [`StdoutClosed`], or what the system says.
pub(crate) fn print(text: impl fmt::Display) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        outcome => outcome.context("cannot write to stdout"),
    }
}

/// [`print()`] with a line break behind it.
///
/// # Errors
/// As those of [`print()`].
pub(crate) fn print_line(text: impl fmt::Display) -> Result<()> {
    print(format_args!("{text}\n"))
}

/// Writes a line to stderr, if anybody listens.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}
