//! How long a step takes on a machine, as a sum of what it does. Knows no engine.

use std::time::Duration;

/// Costs of a machine with a model: a step streams the weights once, computes each new token, and reads the KV of each
/// row's context.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct StepCost {
    /// Of any step, in microseconds: launches, and the weights from memory.
    pub step_us: f64,
    /// Of each new token, prompt or output, in microseconds.
    pub token_us: f64,
    /// Of each token of context that a row attends to, in microseconds.
    pub context_token_us: f64,
}

impl StepCost {
    /// An H100 (SXM) with an 8B model in bfloat16, from its data sheet: 16 GB of weights at 80 % of 3.35 TB/s, 16 GFLOP a token
    /// at 60 % of 989 TFLOP/s, 128 KiB of KV a token of context at 80 % of 3.35 TB/s.
    pub const H100_8B: Self = Self { step_us: 6_000.0, token_us: 27.0, context_token_us: 0.049 };

    /// Time of a step with so many new tokens, whose rows have so much context together.
    #[must_use]
    pub fn step(&self, num_new_tokens: u64, num_context_tokens: u64) -> Duration {
        let micros =
            self.step_us + self.token_us * num_new_tokens as f64 + self.context_token_us * num_context_tokens as f64;
        Duration::from_nanos((micros * 1000.0) as u64)
    }
}
