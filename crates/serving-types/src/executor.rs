//! The seam between deciding and computing: the [`Executor`] trait, its limits, outputs and errors.

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::{Batch, CopyId, StepId, TokenId};

/// Runs batches of one model on one device.
///
/// Two-phase, so that the engine plans step n + 1 while the device works on step n. Object-safe: the engine holds a
/// `Box<dyn Executor>`. Steps run in launch order and are finished in that order.
pub trait Executor: Send {
    /// What batches may hold. Constant over the executor's life.
    fn limits(&self) -> ExecutorLimits;

    /// Every named line of memory that the executor took, for the start-up ledger.
    fn memory(&self) -> Vec<MemoryEntry>;

    /// Starts a step. Copies what it needs; the batch may be refilled on return.
    ///
    /// # Errors
    /// The step did not start and left no KV that may be read: its rows must be recomputed or failed.
    fn launch(&mut self, batch: &Batch) -> Result<InFlight, ExecutorError>;

    /// Waits for the oldest step in flight and writes its results over `output`. Waits for no copies between the pools,
    /// unless the step has no rows: then until some fetches have arrived, if any are under way.
    ///
    /// # Errors
    /// As for [`launch`](Self::launch).
    fn finish(&mut self, step: InFlight, output: &mut BatchOutput) -> Result<(), ExecutorError>;
}

/// What an executor can take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ExecutorLimits {
    /// Tokens a KV block holds.
    pub block_size: u32,
    /// Blocks of the KV pool.
    pub num_blocks: u32,
    /// Blocks of the host's KV pool; 0 if there is none.
    pub num_host_blocks: u32,
    /// Most new tokens in a batch, over all rows.
    pub max_batch_tokens: u32,
    /// Most rows in a batch; also the number of row slots.
    pub max_batch_rows: u32,
    /// Longest context of a request, prompt and output together.
    pub max_model_len: u32,
    /// Tokens in the vocabulary.
    pub vocab_size: u32,
    /// Most likely tokens that can be reported for a position.
    pub max_top_logprobs: u32,
    /// Steps that may be launched before the first of them is finished: 1 where launching computes, 2 on a device that
    /// works beside the host.
    pub max_steps_in_flight: u32,
}

/// One named line of the memory ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryEntry {
    /// What it is: "weights", "kv blocks", "activations" …
    pub name: Cow<'static, str>,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A launched step that must be finished. Move-only, so that none is finished twice.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a launched step must be finished"]
pub struct InFlight(StepId);

impl InFlight {
    /// For executors: the token of a step that they have launched.
    pub fn new(step: StepId) -> Self {
        Self(step)
    }

    /// The step.
    #[must_use]
    pub fn step(&self) -> StepId {
        self.0
    }
}

/// Results of one step, in arrays that are reused from step to step.
#[derive(Debug, Default, PartialEq)]
pub struct BatchOutput {
    /// One entry a row, in the order of the batch's rows.
    pub rows: Vec<RowOutput>,
    /// Sampled tokens; rows name ranges of it.
    pub tokens: Vec<TokenId>,
    /// Log-probabilities of positions; rows name ranges of it.
    pub logprobs: Vec<PositionLogprobs>,
    /// The most likely tokens of positions with their log-probabilities, most likely first.
    pub top: Vec<(TokenId, f32)>,
    /// Copies inside of the pool that are done.
    pub finished_copies: Vec<CopyId>,
    /// The last step of which, as of all before it, the copies back from the host have arrived. Never goes back.
    pub fetched_through: Option<StepId>,
}

impl BatchOutput {
    /// Empties the arrays and keeps their memory.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.tokens.clear();
        self.logprobs.clear();
        self.top.clear();
        self.finished_copies.clear();
        self.fetched_through = None;
    }

    /// The tokens that a row sampled.
    #[must_use]
    pub fn tokens_of(&self, row: &RowOutput) -> &[TokenId] {
        &self.tokens[row.tokens.start as usize..row.tokens.end as usize]
    }
}

/// Results of one row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RowOutput {
    /// Sampled tokens, in `BatchOutput::tokens`: one if the row samples and is sound, else none.
    pub tokens: Range<u32>,
    /// In `BatchOutput::logprobs`: first one entry for each scored position, then one for each sampled token if its
    /// request asked for log-probabilities.
    pub logprobs: Range<u32>,
    /// The row's own failure. Other rows are not affected.
    pub fault: Option<RowFault>,
}

/// Log-probabilities at one position.
#[derive(Clone, PartialEq, Debug)]
pub struct PositionLogprobs {
    /// The sampled or target token.
    pub token: TokenId,
    /// Its natural-log probability under the model (before temperature, penalties and filters).
    pub logprob: f32,
    /// 1 + the number of tokens that are more likely.
    pub rank: u32,
    /// The most likely tokens, in `BatchOutput::top`.
    pub top: Range<u32>,
}

/// A failure that stays in its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RowFault {
    /// A logit was NaN or infinite, or every token was masked: no probability can be formed.
    NonFiniteLogits,
}

impl fmt::Display for RowFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NonFiniteLogits => f.write_str("the model's logits are not finite"),
        }
    }
}

/// A failure of a whole step. Says who can act.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ExecutorError {
    /// This step failed; the executor can run others.
    Step(String),
    /// The device is gone; no further step can run. For the operator.
    Device(String),
}

impl fmt::Display for ExecutorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(cause) => write!(f, "the step failed: {cause}"),
            Self::Device(cause) => write!(f, "the device failed: {cause}"),
        }
    }
}

impl core::error::Error for ExecutorError {}
