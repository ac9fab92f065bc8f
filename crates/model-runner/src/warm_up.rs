//! Steps of made-up rows before the first real one, so that no request waits until code is loaded, algorithms are chosen or
//! weights are read for the first time. Knows what rows can ask for, not which kernels answer.

use std::iter::successors;
use std::ops::Range;
use std::sync::Arc;

use serving_types::{
    Batch, BlockCopy, BlockId, CopyId, ExecutorLimits, HostBlockId, HostCopy, OpenSlot, Row, RowInput, RowSlot,
    SamplingParams, Score, StepId, TokenId,
};

/// Rows of a step, if so many are possible: one for each kind of sampling.
const NUM_ROWS: u32 = 4;
/// New tokens of a row that goes on behind a prefix.
const CHUNK_LEN: u32 = 2;
/// Tokens that a row may still grow by after its prompt: a decode and a chunk.
const TAIL_LEN: u32 = 1 + CHUNK_LEN;
/// Prompts of steps shrink by this factor, from as many tokens as a step can hold to no fewer than the smallest.
const SHRINKING: u32 = 4;
const SMALLEST_STEP_TOKENS: u32 = 16;

/// The steps: prompts of several lengths; of the shortest also scores, decodes, chunks behind a prefix, and every kind of
/// sampling; last, copies of blocks. None if there is no room for any.
pub(crate) fn batches(limits: &ExecutorLimits) -> Vec<Batch> {
    let num_rows = NUM_ROWS.min(limits.max_batch_rows).min(limits.max_batch_tokens / CHUNK_LEN).max(1);
    let max_blocks = limits.max_model_len.div_ceil(limits.block_size).min(limits.num_blocks / num_rows);
    let room = (max_blocks * limits.block_size).min(limits.max_model_len);
    let Some(max_len) = room.checked_sub(TAIL_LEN).filter(|len| *len > 0) else { return Vec::new() };
    let mut steps = Steps { limits, num_rows, max_blocks, batches: Vec::new() };

    let shrink = |len: &u32| Some(len / SHRINKING).filter(|len| *len >= SMALLEST_STEP_TOKENS);
    let mut sizes: Vec<u32> = successors(Some(limits.max_batch_tokens), shrink).collect();
    sizes.reverse();
    let lens = sizes.into_iter().map(|tokens| (tokens / num_rows).clamp(1, max_len));
    for (nth, len) in lens.enumerate() {
        if nth > 0 {
            steps.prefill(len, 0, Scored::Nothing);
            continue;
        }
        for round in 0..NUM_ROWS.div_ceil(num_rows) {
            steps.prefill(len, round * num_rows, Scored::AllPositions);
            steps.go_on(len);
        }
    }
    steps.copy();
    steps.batches
}

/// Which positions of a prompt report log-probabilities.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scored {
    Nothing,
    AllPositions,
}

/// Steps in the making.
struct Steps<'a> {
    limits: &'a ExecutorLimits,
    num_rows: u32,
    /// Blocks of each row's table.
    max_blocks: u32,
    batches: Vec<Batch>,
}

impl Steps<'_> {
    fn batch(&mut self) -> &mut Batch {
        let mut batch = Batch::new();
        batch.step = StepId(self.batches.len() as u64);
        self.batches.push(batch);
        self.batches.last_mut().expect("just pushed")
    }

    /// New owners of all slots, whose prompts have so many tokens; the first one samples as kind `first_kind` says.
    fn prefill(&mut self, len: u32, first_kind: u32, scored: Scored) {
        let (limits, num_rows, max_blocks) = (*self.limits, self.num_rows, self.max_blocks);
        let batch = self.batch();
        for row in 0..num_rows {
            let tokens: Vec<TokenId> = (0..len).map(|token| (row + token) % limits.vocab_size).collect();
            let sampling = sampling_of_kind(first_kind + row, &limits);
            let history = if sampling.has_penalties() { push(batch, &tokens) } else { 0..0 };
            let slot = RowSlot(row);
            let sampling = Arc::new(sampling);
            batch.opens.push(OpenSlot { slot, sampling, num_prompt_tokens: len, history });
            let first_block = batch.blocks.len() as u32;
            batch.blocks.extend((row * max_blocks..(row + 1) * max_blocks).map(BlockId));
            let score = (scored == Scored::AllPositions && len > 1).then(|| Score {
                first: 0,
                targets: push(batch, &tokens[1..]),
                num_top: limits.max_top_logprobs,
            });
            let input = RowInput::Tokens(push(batch, &tokens));
            let new_blocks = first_block..batch.blocks.len() as u32;
            batch.rows.push(Row { slot, start: 0, input, new_blocks, score, sample: true });
        }
    }

    /// Two steps behind a prompt of so many tokens: all rows decode; then the first one does, and the others bring chunks.
    fn go_on(&mut self, len: u32) {
        let num_rows = self.num_rows;
        let decode = |row: u32, start: u32| Row {
            slot: RowSlot(row),
            start,
            input: RowInput::LastSampled,
            new_blocks: 0..0,
            score: None,
            sample: true,
        };
        self.batch().rows.extend((0..num_rows).map(|row| decode(row, len)));
        let batch = self.batch();
        batch.rows.push(decode(0, len + 1));
        for row in 1..num_rows {
            let input = RowInput::Tokens(push(batch, &[0; CHUNK_LEN as usize]));
            batch.rows.push(Row { input, ..decode(row, len + 1) });
        }
    }

    /// Copies of the first block: to the host, back from there, and to another one.
    fn copy(&mut self) {
        let (num_blocks, num_host_blocks) = (self.limits.num_blocks, self.limits.num_host_blocks);
        let (block, last) = (BlockId(0), BlockId(num_blocks - 1));
        if num_host_blocks > 0 {
            let host = HostBlockId(0);
            self.batch().host_copies.push(HostCopy::Offload { from: block, to: host });
            self.batch().host_copies.push(HostCopy::Fetch { from: host, to: block });
        }
        self.batch().copies.push(BlockCopy { id: CopyId(0), from: block, to: last });
    }
}

/// Greedy with log-probabilities; all filters; penalties and a bias; the whole distribution.
fn sampling_of_kind(kind: u32, limits: &ExecutorLimits) -> SamplingParams {
    let all = SamplingParams { temperature: 1.0, seed: 1, max_tokens: TAIL_LEN, ..SamplingParams::default() };
    match kind % NUM_ROWS {
        0 => SamplingParams { temperature: 0.0, logprobs: Some(limits.max_top_logprobs), ..all },
        1 => SamplingParams { temperature: 0.7, top_k: 20, top_p: 0.9, min_p: 0.05, ..all },
        2 => SamplingParams {
            repetition_penalty: 1.1,
            presence_penalty: 0.1,
            frequency_penalty: 0.1,
            logit_bias: vec![(0, 1.0)],
            ..all
        },
        _ => all,
    }
}

fn push(batch: &mut Batch, tokens: &[TokenId]) -> Range<u32> {
    let start = batch.tokens.len() as u32;
    batch.tokens.extend_from_slice(tokens);
    start..batch.tokens.len() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inputs::InputPreparation;

    const LIMITS: ExecutorLimits = ExecutorLimits {
        block_size: 16,
        num_blocks: 1000,
        num_host_blocks: 10,
        max_batch_tokens: 2048,
        max_batch_rows: 64,
        max_model_len: 4096,
        vocab_size: 100,
        max_top_logprobs: 20,
        max_steps_in_flight: 2,
    };

    /// Preparation asserts that a batch keeps the limits.
    #[track_caller]
    fn check(limits: ExecutorLimits, expected_tokens: &[u32]) {
        let batches = batches(&limits);
        let mut preparation = InputPreparation::new(limits);
        for batch in &batches {
            preparation.prepare(batch, &mut Vec::new());
        }
        let tokens: Vec<u32> = batches.iter().map(Batch::num_new_tokens).collect();
        assert_eq!(tokens, expected_tokens);
    }

    #[test]
    fn steps_keep_every_limit() {
        check(LIMITS, &[32, 4, 7, 128, 512, 2048, 0, 0, 0]);
        check(ExecutorLimits { max_model_len: 131, ..LIMITS }, &[32, 4, 7, 128, 512, 512, 0, 0, 0]);
        check(ExecutorLimits { num_blocks: 5, num_host_blocks: 0, ..LIMITS }, &[32, 4, 7, 52, 52, 52, 0]);
        // One row at a time has to sample in every way.
        let one = ExecutorLimits { max_batch_rows: 1, max_batch_tokens: 16, num_host_blocks: 0, ..LIMITS };
        check(one, &[16, 1, 1, 16, 1, 1, 16, 1, 1, 16, 1, 1, 0]);
        check(ExecutorLimits { max_batch_tokens: 1, ..one }, &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]);
        check(ExecutorLimits { max_model_len: 3, ..LIMITS }, &[]);
        check(ExecutorLimits { num_blocks: 3, ..LIMITS }, &[]);
    }
}
