//! What changes from step to step: one flat upload. Knows indices and lengths, not requests.

use serving_types::{RowSlot, TokenId};

/// Sizes of the device's mirror of [`StepInputs`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InputLimits {
    /// Most tokens a step.
    pub max_tokens: usize,
    /// Row slots; also the most rows a step.
    pub max_slots: usize,
    /// Most blocks in one slot's table.
    pub max_blocks_per_slot: usize,
    /// Most logit jobs a step.
    pub max_jobs: usize,
    /// Whose attention the inputs are planned for.
    pub attention: AttentionLayout,
}

/// What all layers' attention has in common, as far as a backend plans its work from it once a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttentionLayout {
    /// Query heads.
    pub num_heads: usize,
    /// Key-value heads.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// Positions a token sees, itself included; `None`: all before it.
    pub sliding_window: Option<usize>,
}

/// One step's inputs, as arrays that are refilled in place.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepInputs {
    /// `[tokens]` ids; entries named by `fed` are ignored.
    pub token_ids: Vec<TokenId>,
    /// Tokens whose id is the last one sampled by a slot: (index into `token_ids`, slot), ascending.
    pub fed: Vec<(u32, RowSlot)>,
    /// `[tokens]` position of each token in its context, from 0.
    pub positions: Vec<u32>,
    /// `[tokens]` the row of each token. Rows are contiguous and ascend.
    pub token_rows: Vec<u32>,
    /// `[rows + 1]` first token of each row; row `r` holds tokens `row_starts[r]..row_starts[r + 1]`, at least one.
    pub row_starts: Vec<u32>,
    /// `[rows]` the slot of each row, whose table says where its KV lies.
    pub row_slots: Vec<RowSlot>,
    /// `[rows]` tokens in the row's context, the new ones included.
    pub context_lens: Vec<u32>,
    /// Entries of block tables to set before the step; all others stay as they were.
    pub table_updates: Vec<TableUpdate>,
    /// Where logits are wanted, in row order.
    pub jobs: Vec<LogitJob>,
}

impl StepInputs {
    /// Empties the arrays and keeps their memory.
    pub fn clear(&mut self) {
        self.token_ids.clear();
        self.fed.clear();
        self.positions.clear();
        self.token_rows.clear();
        self.row_starts.clear();
        self.row_slots.clear();
        self.context_lens.clear();
        self.table_updates.clear();
        self.jobs.clear();
    }

    /// New tokens in the step.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.token_ids.len()
    }

    /// Rows in the step.
    #[must_use]
    pub fn num_rows(&self) -> usize {
        self.row_slots.len()
    }

    /// Whether each row brings one token, and asks for its logits at most once: then the step has one shape for each
    /// number of rows.
    #[must_use]
    pub fn is_decode(&self) -> bool {
        self.num_tokens() == self.num_rows() && self.jobs.len() <= self.num_rows()
    }
}

/// `table[slot][index] = block`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableUpdate {
    /// The slot.
    pub slot: RowSlot,
    /// Which of the slot's blocks: it holds positions `index * block_size ..`.
    pub index: u32,
    /// Physical block.
    pub block: u32,
}

/// One position whose logits are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogitJob {
    /// Index of the position among the step's tokens.
    pub token_index: u32,
    /// The row's slot: whose sampling parameters apply, and who gets the sampled token.
    pub slot: RowSlot,
    /// What to do with the logits.
    pub choice: LogitChoice,
}

/// What to do with one position's logits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogitChoice {
    /// Choose a token by the slot's sampling parameters. It becomes the slot's last sampled token and joins its history.
    Sample {
        /// How many tokens of output came before it; the counter of the slot's random numbers.
        output_position: u32,
    },
    /// Report the log-probability of a known token.
    Score {
        /// The token.
        target: TokenId,
        /// Also report this many most likely tokens.
        num_top: u32,
    },
}
