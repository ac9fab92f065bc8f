//! How long a start takes, phase by phase. Knows no phase: whoever has done something says what it was.

use std::time::{Duration, Instant};

use crate::report;

/// What has been done since the program began.
pub(crate) struct Phases {
    /// When the last one ended.
    now: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Phases {
    /// The first one begins.
    pub(crate) fn begin() -> Self {
        Self { now: Instant::now(), done: Vec::new() }
    }

    /// What was done since the last phase ended has this name; the next one begins.
    pub(crate) fn end(&mut self, name: &'static str) {
        let before = std::mem::replace(&mut self.now, Instant::now());
        self.done.push((name, self.now - before));
    }

    /// All of them, for people.
    pub(crate) fn describe(&self) -> String {
        report::phases(self.done.iter().copied())
    }
}
