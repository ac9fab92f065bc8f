//! What steps have cost lately, and so what a request will cost at least. Knows no clock: durations are told.

use std::collections::VecDeque;
use std::time::Duration;

use serving_types::StepId;

/// Weight of the newest measurement in the mean: one in so many.
const INVERSE_WEIGHT: u64 = 8;

/// A refusal takes one in so many parts off what copies are thought to cost.
const FORGETTING: u64 = 64;

/// What a step computed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StepShape {
    /// Rows that brought one token.
    pub(crate) num_decodes: u32,
    /// Tokens of all other rows.
    pub(crate) num_prefill_tokens: u32,
    /// Blocks that it began to copy back from the host.
    pub(crate) num_fetched_blocks: u32,
}

/// Exponentially weighted means of measured costs. Zero until measured, so that nothing is given up on a guess.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepCost {
    decode_step_nanos: u64,
    prefill_token_nanos: u64,
    fetched_block_nanos: u64,
    /// Steps that are finished while their copies are under way, with the number of blocks; the oldest first.
    copying: VecDeque<(StepId, u32)>,
    /// What steps took since the oldest of those copies began.
    copying_nanos: u64,
}

impl StepCost {
    /// Learns from a finished step, whose copies have arrived if they are of `fetched_through` or before. What a step with
    /// prefill takes beyond a decode step is put down to its prefill. What a step whose copies arrive with it takes beyond what
    /// it should is put down to those, once that much is known; copies that take longer have taken as long as the steps until
    /// they arrive.
    pub(crate) fn observe(&mut self, step: StepId, shape: StepShape, fetched_through: Option<StepId>, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.observe_copying(fetched_through, took);
        if shape.num_fetched_blocks > 0 && Some(step) <= fetched_through {
            return self.observe_copies(shape, took);
        }
        if shape.num_fetched_blocks > 0 {
            self.copying_nanos += if self.copying.is_empty() { took } else { 0 };
            self.copying.push_back((step, shape.num_fetched_blocks));
        }
        if shape.num_decodes + shape.num_prefill_tokens == 0 {
            // It only waited.
        } else if shape.num_prefill_tokens == 0 {
            self.decode_step_nanos = mean(self.decode_step_nanos, took);
        } else {
            let beyond = if shape.num_decodes > 0 { took.saturating_sub(self.decode_step_nanos) } else { took };
            self.prefill_token_nanos = mean(self.prefill_token_nanos, beyond / u64::from(shape.num_prefill_tokens));
        }
    }

    /// Learns of the copies that took longer than their steps.
    fn observe_copying(&mut self, fetched_through: Option<StepId>, took: u64) {
        if self.copying.is_empty() {
            return;
        }
        self.copying_nanos = self.copying_nanos.saturating_add(took);
        let mut num_blocks = 0;
        while let Some((_, num_more)) = self.copying.pop_front_if(|(step, _)| Some(*step) <= fetched_through) {
            num_blocks += num_more;
        }
        if num_blocks > 0 {
            let nanos = core::mem::take(&mut self.copying_nanos) / u64::from(num_blocks);
            self.fetched_block_nanos = mean(self.fetched_block_nanos, nanos).max(1);
        }
    }

    /// Learns of the copies that arrived with their step.
    fn observe_copies(&mut self, shape: StepShape, took: u64) {
        if self.prefill_token_nanos > 0 {
            let others = self.estimate(shape.num_prefill_tokens.into(), u32::from(shape.num_decodes > 0));
            let beyond = took.saturating_sub(others.as_nanos() as u64);
            // Never back to not measured.
            self.fetched_block_nanos =
                mean(self.fetched_block_nanos, beyond / u64::from(shape.num_fetched_blocks)).max(1);
        }
    }

    /// Whether copying blocks back from the host is worth it: quicker than to compute their tokens, or not measured yet.
    /// What is not copied is not measured either, so each refusal makes copies look a little cheaper, until one is tried.
    pub(crate) fn prefers_copies(&mut self, num_blocks: u32, num_tokens: u32) -> bool {
        let copying = self.fetched_block_nanos.saturating_mul(num_blocks.into());
        let computing = self.prefill_token_nanos.saturating_mul(num_tokens.into());
        let is_worth_it = copying <= computing;
        if !is_worth_it {
            self.fetched_block_nanos -= self.fetched_block_nanos.div_ceil(FORGETTING);
        }
        is_worth_it
    }

    /// The time that prefill of `num_prefill_tokens` and then `num_decode_steps` will take.
    pub(crate) fn estimate(&self, num_prefill_tokens: u64, num_decode_steps: u32) -> Duration {
        let prefill = self.prefill_token_nanos.saturating_mul(num_prefill_tokens);
        let decodes = self.decode_step_nanos.saturating_mul(num_decode_steps.into());
        Duration::from_nanos(prefill.saturating_add(decodes))
    }
}

fn mean(mean: u64, sample: u64) -> u64 {
    if mean == 0 { sample } else { mean - mean / INVERSE_WEIGHT + sample / INVERSE_WEIGHT }
}
