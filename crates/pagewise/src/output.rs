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

/// An error and its causes in one line. Some messages end with their cause, which is not said again.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Writes a line to stderr, if anybody listens.
pub(crate) fn note(text: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_cause_is_said_once() {
        let check = |error: anyhow::Error, expected: &str| assert_eq!(explain(&error), expected);
        check(anyhow!("refused"), "refused");
        check(anyhow!("refused").context("cannot connect"), "cannot connect: refused");
        check(anyhow!("refused").context("cannot connect: refused"), "cannot connect: refused");
        check(anyhow!("refused").context("connect").context("connect").context("cannot"), "cannot: connect: refused");
    }
}
