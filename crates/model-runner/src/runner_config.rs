//! What a runner may take and hold: limits and element types. Knows no flags or defaults of the command line.

use std::ops::RangeInclusive;

use model_format::ModelConfig;
use tensor_backend::{AttentionLayout, InputLimits, KvElement, SamplerLimits};

use crate::ModelError;

/// Limits of a runner. The binary resolves them from its flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RunnerConfig {
    /// Tokens a KV block holds. `1..=1024`.
    pub block_size: u32,
    /// Blocks of the KV pool. `1..=2^26`.
    pub num_blocks: u32,
    /// Blocks of the host's KV pool. `0..=2^26`.
    pub num_host_blocks: u32,
    /// Element of the KV pool.
    pub kv_element: KvElement,
    /// Longest context of a request, prompt and output together. At least 2, at most [`Checkpoint::max_context_len`].
    ///
    /// [`Checkpoint::max_context_len`]: crate::Checkpoint::max_context_len
    pub max_model_len: u32,
    /// Most new tokens a step. `1..=2^20`.
    pub max_batch_tokens: u32,
    /// Most rows a step, and the number of row slots. `1..=2^14`.
    pub max_batch_rows: u32,
    /// Most likely tokens that can be reported for a position. At most the vocabulary.
    pub max_top_logprobs: u32,
    /// Whether decode steps are recorded, where the backend can.
    pub recording: Recording,
    /// What runs before the first step.
    pub warm_up: WarmUp,
}

/// What a runner computes before its first step, for backends that load code when it is first used. Leaves nothing behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WarmUp {
    /// Nothing.
    #[default]
    Off,
    /// Every op, in made-up steps of several sizes.
    EveryOp,
}

/// What a runner records before its first step, to replay it later with less work for the host. The results are the same
/// bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Recording {
    /// Decode steps of every size that the backend names.
    #[default]
    DecodeSteps,
    /// Nothing: every op is enqueued anew.
    Off,
}

/// Logit rows that are computed at once: as many as rows a step, within these bounds. More go through in slices, so that
/// logits never need more memory.
const LOGIT_ROWS: RangeInclusive<usize> = 64..=256;

impl RunnerConfig {
    /// Most logit jobs a step: every new token may be scored and every row may sample.
    pub(crate) fn max_jobs(&self) -> usize {
        self.max_batch_tokens as usize + self.max_batch_rows as usize
    }

    /// Rows of the logits buffer.
    pub(crate) fn logit_rows(&self) -> usize {
        self.max_jobs().min((self.max_batch_rows as usize).clamp(*LOGIT_ROWS.start(), *LOGIT_ROWS.end()))
    }

    /// Sizes of the device's mirror of a step's inputs.
    pub(crate) fn input_limits(&self, model: &ModelConfig) -> InputLimits {
        InputLimits {
            attention: AttentionLayout {
                num_heads: model.num_heads as usize,
                num_kv_heads: model.num_kv_heads as usize,
                head_dim: model.head_dim as usize,
                block_size: self.block_size as usize,
                sliding_window: model.sliding_window.map(|window| window as usize),
            },
            max_tokens: self.max_batch_tokens as usize,
            max_slots: self.max_batch_rows as usize,
            max_blocks_per_slot: self.max_model_len.div_ceil(self.block_size) as usize,
            max_jobs: self.max_jobs(),
        }
    }

    /// Sizes of the sampling state.
    pub(crate) fn sampler_limits(&self, model: &ModelConfig) -> SamplerLimits {
        SamplerLimits {
            max_slots: self.max_batch_rows as usize,
            vocab_size: model.vocab_size as usize,
            max_context_len: self.max_model_len as usize,
            max_jobs_at_once: self.logit_rows(),
        }
    }

    /// Fails where a limit is out of its range, for a model of this vocabulary and context.
    pub(crate) fn check(&self, vocab_size: u32, max_context_len: u32) -> Result<(), ModelError> {
        let ranges = [
            ("block_size", self.block_size, 1, 1 << 10),
            ("num_blocks", self.num_blocks, 1, 1 << 26),
            ("num_host_blocks", self.num_host_blocks, 0, 1 << 26),
            ("max_model_len", self.max_model_len, 2, max_context_len),
            ("max_batch_rows", self.max_batch_rows, 1, 1 << 14),
            ("max_batch_tokens", self.max_batch_tokens, 1, 1 << 20),
            ("max_top_logprobs", self.max_top_logprobs, 0, vocab_size),
        ];
        for (name, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                let rule = format!("this model and build take {min} to {max}");
                return Err(ModelError::Limit { name, value: value.into(), rule });
            }
        }
        Ok(())
    }
}
