//! How long the device had nothing to do before each step, for whoever profiles the host. Knows no step.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A list that the runner adds to and somebody else takes from, on another thread.
#[derive(Clone, Debug, Default)]
pub struct GapLog(Arc<Mutex<Vec<Duration>>>);

impl GapLog {
    /// What was added since the last call, one entry for each step that followed another, in order.
    #[must_use]
    pub fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn push(&self, gap: Duration) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(gap);
    }
}
