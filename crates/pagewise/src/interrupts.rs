//! SIGINT and SIGTERM: the wishes of whoever started the process that it should end. Knows no command.

use anyhow::{Context, Result};

/// Receives interrupts from its creation on; until then the system ends the process by itself.
#[cfg(unix)]
pub(crate) struct Interrupts {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Interrupts {
    /// Starts to receive.
    ///
    /// # Errors
    /// The system does not allow it.
    pub(crate) fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let receive = |kind| signal(kind).context("cannot receive signals");
        Ok(Self { interrupt: receive(SignalKind::interrupt())?, terminate: receive(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Receives Ctrl-C.
#[cfg(not(unix))]
pub(crate) struct Interrupts;

#[cfg(not(unix))]
impl Interrupts {
    /// Starts to receive.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self)
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.context("cannot receive signals").is_err() {
            std::future::pending().await
        }
    }
}
