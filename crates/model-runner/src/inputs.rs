//! Turns a batch into one flat upload, and asserts that it is well formed: a malformed batch is a bug of its planner.
//! Knows rows, slots and limits, not the model or the device.

use std::ops::Range;

use serving_types::{Batch, ExecutorLimits, OpenSlot, Row, RowInput, RowSlot, Score, StepId};
use tensor_backend::{LogitChoice, LogitJob, StepInputs, TableUpdate};

/// What the host must know of each row slot to prepare its next row.
#[derive(Clone, Debug, Default)]
struct Slot {
    /// Set by the slot's first owner.
    num_prompt_tokens: Option<u32>,
    /// Blocks in its table.
    num_blocks: u32,
    /// Whether its owner has sampled a token, which the device holds.
    has_sampled: bool,
    /// The last step with a row of it.
    last_step: Option<StepId>,
}

/// The row slots, and the inputs of the step that is prepared; both are reused from step to step.
#[derive(Debug)]
pub(crate) struct InputPreparation {
    limits: ExecutorLimits,
    slots: Vec<Slot>,
    inputs: StepInputs,
}

impl InputPreparation {
    pub(crate) fn new(limits: ExecutorLimits) -> Self {
        Self { limits, slots: vec![Slot::default(); limits.max_batch_rows as usize], inputs: StepInputs::default() }
    }

    /// The inputs of the last prepared step.
    pub(crate) fn inputs(&self) -> &StepInputs {
        &self.inputs
    }

    /// Prepares a batch: opens slots, extends block tables, lists tokens and logit jobs. Writes over `row_jobs` which
    /// jobs are each row's: its scored positions in order, then its sample.
    ///
    /// # Panics
    /// If the batch breaks a limit or names what is not there.
    pub(crate) fn prepare(&mut self, batch: &Batch, row_jobs: &mut Vec<Range<u32>>) {
        assert!(batch.num_new_tokens() <= self.limits.max_batch_tokens, "the batch exceeds the token budget");
        assert!(batch.rows.len() <= self.limits.max_batch_rows as usize, "the batch has too many rows");
        for copy in &batch.copies {
            assert!(copy.from.0 < self.limits.num_blocks, "a copy reads a block outside of the pool");
            assert!(copy.to.0 < self.limits.num_blocks, "a copy writes a block outside of the pool");
        }
        for open in &batch.opens {
            self.open(open, batch);
        }
        self.inputs.clear();
        self.inputs.row_starts.push(0);
        row_jobs.clear();
        for row in &batch.rows {
            let first_job = self.inputs.jobs.len() as u32;
            self.add_row(batch, row);
            row_jobs.push(first_job..self.inputs.jobs.len() as u32);
        }
    }

    fn open(&mut self, open: &OpenSlot, batch: &Batch) {
        assert!(open.slot.0 < self.limits.max_batch_rows, "slot {} does not exist", open.slot);
        assert!(open.num_prompt_tokens > 0, "slot {} has no prompt", open.slot);
        let max_top = self.limits.max_top_logprobs;
        assert!(
            open.sampling.logprobs.unwrap_or(0) <= max_top,
            "slot {} asks for too many log-probabilities",
            open.slot
        );
        let history = batch.tokens_of(&open.history);
        assert!(history.is_empty() || open.sampling.has_penalties(), "slot {} needs no history", open.slot);
        assert!(
            history.iter().all(|token| *token < self.limits.vocab_size),
            "a history token is not in the vocabulary"
        );
        self.slots[open.slot.0 as usize] = Slot {
            num_prompt_tokens: Some(open.num_prompt_tokens),
            // A row of this batch may already have been the former owner's: never two rows of a slot in one step.
            last_step: self.slots[open.slot.0 as usize].last_step,
            ..Slot::default()
        };
    }

    fn add_row(&mut self, batch: &Batch, row: &Row) {
        let first_token = self.inputs.token_ids.len() as u32;
        let num_tokens = row.num_tokens();
        let end = row.start + num_tokens;
        assert!(num_tokens > 0, "the row of slot {} is empty", row.slot);
        assert!(end <= self.limits.max_model_len, "the row of slot {} exceeds the context", row.slot);
        assert!(row.slot.0 < self.limits.max_batch_rows, "slot {} does not exist", row.slot);
        self.extend_table(batch, row);

        let slot = &mut self.slots[row.slot.0 as usize];
        let num_prompt_tokens = slot.num_prompt_tokens.expect("a row's slot was opened before");
        assert!(slot.last_step != Some(batch.step), "slot {} has two rows in one step", row.slot);
        assert!(
            u64::from(end) <= u64::from(slot.num_blocks) * u64::from(self.limits.block_size),
            "the blocks of slot {} do not cover its row",
            row.slot
        );
        slot.last_step = Some(batch.step);

        match &row.input {
            RowInput::Tokens(range) => {
                let tokens = batch.tokens_of(range);
                assert!(tokens.iter().all(|token| *token < self.limits.vocab_size), "a token is not in the vocabulary");
                self.inputs.token_ids.extend_from_slice(tokens);
            }
            RowInput::LastSampled => {
                assert!(slot.has_sampled, "slot {} has sampled nothing yet", row.slot);
                self.inputs.fed.push((first_token, row.slot));
                // Ignored by contract; any id of the vocabulary.
                self.inputs.token_ids.push(0);
            }
        }
        let row_index = self.inputs.num_rows() as u32;
        self.inputs.positions.extend(row.start..end);
        self.inputs.token_rows.extend((0..num_tokens).map(|_| row_index));
        self.inputs.row_starts.push(first_token + num_tokens);
        self.inputs.row_slots.push(row.slot);
        self.inputs.context_lens.push(end);

        if let Some(score) = &row.score {
            self.score(batch, row, score, first_token);
        }
        if row.sample {
            assert!(end >= num_prompt_tokens, "slot {} samples inside of its prompt", row.slot);
            self.slots[row.slot.0 as usize].has_sampled = true;
            let choice = LogitChoice::Sample { output_position: end - num_prompt_tokens };
            self.push_job(first_token + num_tokens - 1, row.slot, choice);
        }
    }

    fn extend_table(&mut self, batch: &Batch, row: &Row) {
        let max_blocks = self.limits.max_model_len.div_ceil(self.limits.block_size);
        let slot = &mut self.slots[row.slot.0 as usize];
        for block in batch.blocks_of(&row.new_blocks) {
            assert!(block.0 < self.limits.num_blocks, "block {block} is outside of the pool");
            assert!(slot.num_blocks < max_blocks, "the table of slot {} is full", row.slot);
            self.inputs.table_updates.push(TableUpdate { slot: row.slot, index: slot.num_blocks, block: block.0 });
            slot.num_blocks += 1;
        }
    }

    fn score(&mut self, batch: &Batch, row: &Row, score: &Score, first_token: u32) {
        let targets = batch.tokens_of(&score.targets);
        assert!(
            score.first as usize + targets.len() <= row.num_tokens() as usize,
            "slot {} scores positions that are not in its row",
            row.slot
        );
        assert!(score.num_top <= self.limits.max_top_logprobs, "slot {} asks for too many log-probabilities", row.slot);
        for (index, &target) in (first_token + score.first..).zip(targets) {
            assert!(target < self.limits.vocab_size, "a score's target is not in the vocabulary");
            self.push_job(index, row.slot, LogitChoice::Score { target, num_top: score.num_top });
        }
    }

    fn push_job(&mut self, token_index: u32, slot: RowSlot, choice: LogitChoice) {
        self.inputs.jobs.push(LogitJob { token_index, slot, choice });
    }
}
