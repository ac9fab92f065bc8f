//! What one step computes: rows, their new tokens and blocks, and where to sample or score.
//!
//! Prefill and decode are one thing: a row brings one or more new tokens and says at which of its positions the model's
//! output is wanted. The arrays are flat and reused from step to step; rows name ranges of them. Knows no policy and no
//! device.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use crate::{BlockId, CopyId, HostBlockId, RowSlot, SamplingParams, StepId, TokenId};

/// One step's work. Apply in this order: `host_copies`, `copies`, `opens`, then all `rows` together.
///
/// Each layer appends the KV of every row before any row attends, so a row may read blocks which another row of the same
/// batch fills. A batch without rows only starts copies, or waits for those under way.
#[derive(Clone, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Batch {
    /// This step.
    pub step: StepId,
    /// Copies between the pool and the host's, to be started before anything else.
    pub host_copies: Vec<HostCopy>,
    /// Copies inside of the pool, in order.
    pub copies: Vec<BlockCopy>,
    /// Slots that change hands: each forgets what it held.
    pub opens: Vec<OpenSlot>,
    /// The rows, at most one a slot.
    pub rows: Vec<Row>,
    /// New tokens of the rows, score targets and histories; rows and opens name ranges of it.
    pub tokens: Vec<TokenId>,
    /// Blocks that join the tables of rows; rows name ranges of it.
    pub blocks: Vec<BlockId>,
}

impl Batch {
    /// An empty batch for reuse.
    #[must_use]
    pub fn new() -> Self {
        Self {
            step: StepId(0),
            host_copies: Vec::new(),
            copies: Vec::new(),
            opens: Vec::new(),
            rows: Vec::new(),
            tokens: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Empties the arrays, keeps their memory, and names the next step.
    pub fn reset(&mut self, step: StepId) {
        self.step = step;
        self.host_copies.clear();
        self.copies.clear();
        self.opens.clear();
        self.rows.clear();
        self.tokens.clear();
        self.blocks.clear();
    }

    /// New tokens over all rows.
    #[must_use]
    pub fn num_new_tokens(&self) -> u32 {
        self.rows.iter().map(Row::num_tokens).sum()
    }

    /// The tokens that a range names.
    #[must_use]
    pub fn tokens_of(&self, range: &Range<u32>) -> &[TokenId] {
        &self.tokens[range.start as usize..range.end as usize]
    }

    /// The blocks that a range names.
    #[must_use]
    pub fn blocks_of(&self, range: &Range<u32>) -> &[BlockId] {
        &self.blocks[range.start as usize..range.end as usize]
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

/// Copies a whole block, all layers, keys and values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BlockCopy {
    /// Reported in [`BatchOutput::finished_copies`](crate::BatchOutput::finished_copies) once done.
    pub id: CopyId,
    /// Block read.
    pub from: BlockId,
    /// Block written.
    pub to: BlockId,
}

/// Copies a whole block, all layers, keys and values, from one pool to the other, beside the steps: a copy may take longer
/// than the step that it came with, and no row waits for it that does not touch its blocks.
///
/// When a copy is planned, all that wrote what it reads has been finished, and so has all that touched what it overwrites,
/// but for other copies. No block of a batch is read and written by such copies, no host block is named by copies of two steps
/// in flight, and the rows of the batch write no block that an offload reads.
///
/// Whatever comes later and touches a block of a copy under way, be it a row to whose table the block is new or another copy,
/// the executor does after that copy. For fetches it need not wait if it has reported them, and rows keep away until then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum HostCopy {
    /// Back to the device. Rows read it once
    /// [`BatchOutput::fetched_through`](crate::BatchOutput::fetched_through) has come to this batch's step.
    Fetch {
        /// Block read.
        from: HostBlockId,
        /// Block written.
        to: BlockId,
    },
    /// To the host.
    Offload {
        /// Block read.
        from: BlockId,
        /// Block written.
        to: HostBlockId,
    },
}

/// A slot gets a new owner: its block table is emptied and its sampling state replaced.
#[derive(Clone, PartialEq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct OpenSlot {
    /// The slot.
    pub slot: RowSlot,
    /// The owner's sampling parameters.
    pub sampling: Arc<SamplingParams>,
    /// Length of the owner's prompt. The token sampled after position `p` has output position `p + 1 - num_prompt_tokens`.
    pub num_prompt_tokens: u32,
    /// All tokens of the owner so far (prompt, then output if it was preempted), in `Batch::tokens`. Empty unless
    /// [`SamplingParams::has_penalties`]; tokens sampled from now on are added by the executor itself.
    pub history: Range<u32>,
}

/// New tokens of one request in one step.
///
/// ```text
/// positions   0 ................ start ............ start + num_tokens
///             [ KV already there )[ this row's new tokens            )
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Row {
    /// The slot, opened in this batch or before.
    pub slot: RowSlot,
    /// Position of the first new token; the KV of all positions before it is in the slot's blocks.
    pub start: u32,
    /// The new tokens.
    pub input: RowInput,
    /// Blocks appended to the slot's table by this row, in `Batch::blocks`. Afterwards the table covers all positions.
    pub new_blocks: Range<u32>,
    /// Positions whose next token is known and whose log-probability is wanted.
    pub score: Option<Score>,
    /// Whether to sample a token after the row's last position.
    pub sample: bool,
}

impl Row {
    /// Number of new tokens; at least 1.
    #[must_use]
    pub fn num_tokens(&self) -> u32 {
        match &self.input {
            RowInput::Tokens(range) => range.end - range.start,
            RowInput::LastSampled => 1,
        }
    }
}

/// Where a row's new tokens come from.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RowInput {
    /// From `Batch::tokens`; not empty.
    Tokens(Range<u32>),
    /// One token: the one that this slot sampled in the step launched before, which the host may not have seen yet.
    LastSampled,
}

/// Log-probabilities of known tokens, for prompt log-probabilities and perplexity.
#[derive(Clone, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Score {
    /// Index, within the row's new tokens, of the first position whose output is scored.
    pub first: u32,
    /// The tokens that follow the scored positions, one each, in `Batch::tokens`.
    pub targets: Range<u32>,
    /// Also report this many most likely tokens of each position.
    pub num_top: u32,
}
