//! Pure functions from logits to tokens.
//!
//! [`choose`] turns one position's logits into the next token by a request's `SamplingParams`; [`score`] reports the
//! log-probability of a known token and of the most likely ones, always of the model's own logits. [`TokenHistory`] is
//! what the penalties need to know of the tokens before, and [`random`] is the counter-based generator behind the draw:
//! the same request gives the same tokens wherever and with whomever it runs.
//!
//! This is also the reference of a device's sampling op, so every choice that a device must repeat is written down: the
//! order of the steps, what happens between equals, and how a random word becomes a choice. Nothing here allocates once
//! its scratch exists, and nothing knows how logits came to be.
#![forbid(unsafe_code)]

mod adjust;
mod choose;
mod exponential;
mod history;
pub mod random;
mod score;

pub use adjust::adjust;
pub use choose::{Scratch, choose};
pub use history::TokenHistory;
pub use score::{TokenScore, score};

use serving_types::RowFault;

/// The fault of logits that are NaN or infinite.
fn check_finite(logits: &[f32]) -> Result<(), RowFault> {
    const EXPONENT: u32 = 0x7F80_0000;
    // One reduction without an early exit, so that it vectorises.
    let found = logits.iter().fold(false, |found, logit| found | (logit.to_bits() & EXPONENT == EXPONENT));
    if found { Err(RowFault::NonFiniteLogits) } else { Ok(()) }
}

/// The largest logit; minus infinity if there is none. NaN is never larger.
fn largest(logits: &[f32]) -> f32 {
    const LANES: usize = 16;
    let larger = |max: f32, logit: f32| if logit > max { logit } else { max };
    // In lanes, so that it vectorises: in a single chain each comparison would wait for the one before.
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = logits.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, logit);
        }
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}
