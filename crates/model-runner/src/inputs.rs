//! Turns a batch into one flat upload, and asserts that it is well formed: a malformed batch is a bug of its planner.
//! Knows rows, slots and limits, not the model or the device.

use std::ops::Range;

use serving_types::{Batch, ExecutorLimits, HostCopy, OpenSlot, Row, RowInput, RowSlot, Score, StepId};
use tensor_backend::{LogitChoice, LogitJob, StepInputs, TableUpdate};

use crate::host_pool::TouchedBlocks;

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
    /// Kept only if there is a host pool.
    touched: TouchedBlocks,
}

impl InputPreparation {
    pub(crate) fn new(limits: ExecutorLimits) -> Self {
        Self {
            limits,
            slots: vec![Slot::default(); limits.max_batch_rows as usize],
            inputs: StepInputs::default(),
            touched: TouchedBlocks::default(),
        }
    }

    /// The inputs of the last prepared step.
    pub(crate) fn inputs(&self) -> &StepInputs {
        &self.inputs
    }

    /// The blocks that are new to the tables of the last prepared step, or that it copies; none without a host pool.
    pub(crate) fn touched(&self) -> &TouchedBlocks {
        &self.touched
    }

    /// Prepares a batch: opens slots, extends block tables, lists tokens and logit jobs. Writes over `row_jobs` which
    /// jobs are each row's: its scored positions in order, then its sample.
    ///
    /// # Panics
    /// If the batch breaks a limit or names what is not there.
    pub(crate) fn prepare(&mut self, batch: &Batch, row_jobs: &mut Vec<Range<u32>>) {
        assert!(batch.num_new_tokens() <= self.limits.max_batch_tokens, "the batch exceeds the token budget");
        assert!(batch.rows.len() <= self.limits.max_batch_rows as usize, "the batch has too many rows");
        for copy in &batch.host_copies {
            let (HostCopy::Fetch { from: host, to: block } | HostCopy::Offload { from: block, to: host }) = copy;
            assert!(block.0 < self.limits.num_blocks, "a copy names a block outside of the pool");
            assert!(host.0 < self.limits.num_host_blocks, "a copy names a block outside of the host's pool");
        }
        self.touched.clear();
        for copy in &batch.copies {
            assert!(copy.from.0 < self.limits.num_blocks, "a copy reads a block outside of the pool");
            assert!(copy.to.0 < self.limits.num_blocks, "a copy writes a block outside of the pool");
            if self.limits.num_host_blocks > 0 {
                self.touched.read.push(copy.from);
                self.touched.written.push(copy.to);
            }
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
        let end = row.start.saturating_add(num_tokens);
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
        let first_written = row.start / self.limits.block_size;
        let slot = &mut self.slots[row.slot.0 as usize];
        for block in batch.blocks_of(&row.new_blocks) {
            assert!(block.0 < self.limits.num_blocks, "block {block} is outside of the pool");
            assert!(slot.num_blocks < max_blocks, "the table of slot {} is full", row.slot);
            if self.limits.num_host_blocks > 0 {
                let is_read = slot.num_blocks < first_written;
                let touched = if is_read { &mut self.touched.read } else { &mut self.touched.written };
                touched.push(*block);
            }
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

#[cfg(test)]
mod tests {
    use std::{panic::catch_unwind, sync::Arc};

    use serving_types::{BlockCopy, BlockId, CopyId, HostBlockId, SamplingParams};

    use super::*;

    const LIMITS: ExecutorLimits = ExecutorLimits {
        block_size: 4,
        num_blocks: 10,
        num_host_blocks: 0,
        max_batch_tokens: 8,
        max_batch_rows: 2,
        max_model_len: 12,
        vocab_size: 100,
        max_top_logprobs: 3,
        max_steps_in_flight: 1,
    };

    /// Slot 0 opens with a prompt of 6 tokens, scores the last two known ones and samples.
    fn prefill() -> Batch {
        let mut batch = Batch::new();
        batch.step = StepId(1);
        batch.tokens = vec![10, 11, 12, 13, 14, 15, 14, 15];
        batch.blocks = vec![BlockId(7), BlockId(3)];
        batch.opens.push(open(0, 6));
        batch.rows.push(Row {
            slot: RowSlot(0),
            start: 0,
            input: RowInput::Tokens(0..6),
            new_blocks: 0..2,
            score: Some(Score { first: 3, targets: 6..8, num_top: 2 }),
            sample: true,
        });
        batch
    }

    /// The sampled token goes in, and the next one is sampled.
    fn decode() -> Batch {
        let mut batch = Batch::new();
        batch.step = StepId(2);
        batch.rows.push(Row {
            slot: RowSlot(0),
            start: 6,
            input: RowInput::LastSampled,
            new_blocks: 0..0,
            score: None,
            sample: true,
        });
        batch
    }

    fn open(slot: u32, num_prompt_tokens: u32) -> OpenSlot {
        let sampling = Arc::new(SamplingParams::default());
        OpenSlot { slot: RowSlot(slot), sampling, num_prompt_tokens, history: 0..0 }
    }

    #[test]
    fn blocks_of_positions_that_are_not_computed_here_are_read() {
        let check = |start: u32, num_tokens: u32, read: &[u32], written: &[u32]| {
            let limits = ExecutorLimits { num_host_blocks: 1, ..LIMITS };
            let mut preparation = InputPreparation::new(limits);
            let mut batch = prefill();
            let num_blocks = (start + num_tokens).div_ceil(limits.block_size);
            batch.blocks = (0..num_blocks).map(BlockId).collect();
            batch.tokens = vec![10; num_tokens as usize];
            let input = RowInput::Tokens(0..num_tokens);
            batch.rows[0] = Row { start, input, new_blocks: 0..num_blocks, score: None, ..batch.rows[0].clone() };
            batch.rows[0].sample = false;
            preparation.prepare(&batch, &mut Vec::new());
            let ids = |blocks: &[BlockId]| blocks.iter().map(|block| block.0).collect::<Vec<_>>();
            let touched = preparation.touched();
            assert_eq!((ids(&touched.read), ids(&touched.written)), (read.to_vec(), written.to_vec()), "from {start}");
        };
        check(0, 6, &[], &[0, 1]);
        check(4, 6, &[0], &[1, 2]);
        check(5, 3, &[0], &[1]);
        check(8, 1, &[0, 1], &[2]);
    }

    #[test]
    fn rows_become_one_flat_upload() {
        let mut preparation = InputPreparation::new(LIMITS);
        let mut row_jobs = Vec::new();
        preparation.prepare(&prefill(), &mut row_jobs);
        let slot = RowSlot(0);
        let score =
            |token_index, target| LogitJob { token_index, slot, choice: LogitChoice::Score { target, num_top: 2 } };
        let sample = |token_index, output_position| LogitJob {
            token_index,
            slot,
            choice: LogitChoice::Sample { output_position },
        };
        assert_eq!(row_jobs.as_slice(), std::slice::from_ref(&(0..3)));
        let expected = StepInputs {
            token_ids: vec![10, 11, 12, 13, 14, 15],
            fed: vec![],
            positions: vec![0, 1, 2, 3, 4, 5],
            token_rows: vec![0; 6],
            row_starts: vec![0, 6],
            row_slots: vec![slot],
            context_lens: vec![6],
            table_updates: vec![TableUpdate { slot, index: 0, block: 7 }, TableUpdate { slot, index: 1, block: 3 }],
            jobs: vec![score(3, 14), score(4, 15), sample(5, 0)],
        };
        assert_eq!(preparation.inputs(), &expected);

        assert!(preparation.touched().written.is_empty(), "nobody asks without a host pool");

        // Behind the decode row, a second request begins in a chunk that samples nothing.
        let mut batch = decode();
        batch.opens.push(open(1, 3));
        batch.tokens = vec![20, 21];
        batch.blocks = vec![BlockId(9)];
        let input = RowInput::Tokens(0..2);
        batch.rows.push(Row { slot: RowSlot(1), start: 0, input, new_blocks: 0..1, score: None, sample: false });
        preparation.prepare(&batch, &mut row_jobs);
        assert_eq!(row_jobs, [0..1, 1..1]);
        let expected = StepInputs {
            token_ids: vec![0, 20, 21],
            fed: vec![(0, slot)],
            positions: vec![6, 0, 1],
            token_rows: vec![0, 1, 1],
            row_starts: vec![0, 1, 3],
            row_slots: vec![slot, RowSlot(1)],
            context_lens: vec![7, 2],
            table_updates: vec![TableUpdate { slot: RowSlot(1), index: 0, block: 9 }],
            jobs: vec![sample(0, 1)],
        };
        assert_eq!(preparation.inputs(), &expected);
    }

    /// The last of these batches is refused, with a message that has `expected` in it.
    fn check(expected: &str, batches: &[Batch]) {
        let outcome = catch_unwind(|| {
            let mut preparation = InputPreparation::new(LIMITS);
            for batch in batches {
                preparation.prepare(batch, &mut Vec::new());
            }
        });
        let panic = outcome.expect_err(expected);
        let message = panic.downcast_ref::<String>().cloned();
        let message = message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let message = message.expect("a message");
        assert!(message.contains(expected), "{message:?} should say {expected:?}");
    }

    fn with(mut batch: Batch, edit: impl FnOnce(&mut Batch)) -> Batch {
        edit(&mut batch);
        batch
    }

    /// The row, cut to one token, several times.
    fn repeat_one_token(batch: &mut Batch, times: usize) {
        let row = Row { input: RowInput::Tokens(0..1), score: None, sample: false, ..batch.rows[0].clone() };
        batch.rows = vec![row; times];
        for row in &mut batch.rows[1..] {
            row.new_blocks = 0..0;
        }
    }

    #[test]
    fn malformed_batches_are_bugs() {
        let row = |batch: &mut Batch, edit: fn(&mut Row)| edit(&mut batch.rows[0]);
        let copy = BlockCopy { id: CopyId(0), from: BlockId(0), to: BlockId(10) };
        let offload = HostCopy::Offload { from: BlockId(0), to: HostBlockId(0) };
        for (expected, batch) in [
            ("token budget", with(prefill(), |b| row(b, |r| r.input = RowInput::Tokens(0..9)))),
            ("too many rows", with(prefill(), |b| repeat_one_token(b, 3))),
            ("two rows", with(prefill(), |b| repeat_one_token(b, 2))),
            ("copy writes", with(prefill(), |b| b.copies.push(copy))),
            ("outside of the host's pool", with(prefill(), |b| b.host_copies.push(offload))),
            ("does not exist", with(prefill(), |b| b.opens[0].slot = RowSlot(2))),
            ("does not exist", with(prefill(), |b| row(b, |r| r.slot = RowSlot(2)))),
            ("opened before", with(prefill(), |b| b.opens.clear())),
            ("has no prompt", with(prefill(), |b| b.opens[0].num_prompt_tokens = 0)),
            ("needs no history", with(prefill(), |b| b.opens[0].history = 0..3)),
            ("is empty", with(prefill(), |b| row(b, |r| r.input = RowInput::Tokens(3..3)))),
            ("exceeds the context", with(prefill(), |b| row(b, |r| r.start = 7))),
            ("do not cover", with(prefill(), |b| row(b, |r| r.start = 3))),
            ("outside of the pool", with(prefill(), |b| b.blocks[1] = BlockId(10))),
            ("not in the vocabulary", with(prefill(), |b| b.tokens[2] = 100)),
            ("target is not", with(prefill(), |b| b.tokens[7] = 100)),
            ("positions that are not", with(prefill(), |b| row(b, |r| r.score.as_mut().expect("one").first = 5))),
            ("too many log-prob", with(prefill(), |b| row(b, |r| r.score.as_mut().expect("one").num_top = 4))),
            ("sampled nothing", with(prefill(), |b| row(b, |r| r.input = RowInput::LastSampled))),
            ("inside of its prompt", with(prefill(), |b| b.opens[0].num_prompt_tokens = 7)),
        ] {
            check(expected, &[batch]);
        }
        for (expected, batch) in [
            (
                "sampled nothing",
                with(decode(), |b| {
                    b.opens.push(open(0, 6));
                    b.blocks = vec![BlockId(0)];
                    (b.rows[0].start, b.rows[0].new_blocks) = (0, 0..1);
                }),
            ),
            (
                "is full",
                with(decode(), |b| {
                    b.blocks = vec![BlockId(0); 2];
                    b.rows[0].new_blocks = 0..2;
                }),
            ),
            ("do not cover", with(decode(), |b| b.rows[0].start = 8)),
        ] {
            check(expected, &[prefill(), batch]);
        }
    }
}
