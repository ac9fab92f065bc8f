//! Random numbers of this process: seeds of unseeded requests, names of unnamed ones, the secret of the prefix cache.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};

/// A keyed hash of a counter. The standard library takes the key from the operating system, so that neither the numbers
/// of another process nor those not yet drawn can be guessed.
#[derive(Default)]
pub(crate) struct Entropy {
    key: RandomState,
    num_draws: AtomicU64,
}

impl Entropy {
    /// A number that was never drawn before, up to chance.
    pub(crate) fn draw(&self) -> u64 {
        self.key.hash_one(self.num_draws.fetch_add(1, Ordering::Relaxed))
    }
}
