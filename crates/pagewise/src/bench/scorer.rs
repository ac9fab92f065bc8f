//! Known texts through an executor: what a model foretells after each of their prefixes. Knows no engine and no figures.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use serving_types::{
    Batch, BatchOutput, BlockId, Executor, OpenSlot, Row, RowInput, RowSlot, SamplingParams, Score, StepId, TokenId,
};

use crate::cli::Rows;

/// What the model foretells after a prefix of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Foretold {
    /// Natural-log probability of the text's next token.
    pub(crate) logprob: f32,
    /// The most likely token.
    pub(crate) most_likely: TokenId,
    /// By how much its natural-log probability is above the second's.
    pub(crate) gap: f32,
}

/// An executor that scores.
pub(crate) struct Scorer {
    executor: Box<dyn Executor>,
    batch: Batch,
    output: BatchOutput,
    next_step: u64,
}

/// A text on its way.
struct Progress<'t> {
    /// All of it but the last token, which nothing follows.
    inputs: &'t [TokenId],
    targets: &'t [TokenId],
    /// Tokens that were computed.
    len: usize,
    /// The blocks that it may fill, of which so many are in its table.
    blocks: Range<u32>,
    num_blocks: u32,
    foretold: Vec<Foretold>,
}

impl Scorer {
    pub(crate) fn new(executor: Box<dyn Executor>) -> Self {
        Self { executor, batch: Batch::new(), output: BatchOutput::default(), next_step: 0 }
    }

    /// Scores every token of each text but the first, all texts side by side.
    ///
    /// # Errors
    /// More texts, or longer ones, than the executor has room for, or a step that failed.
    pub(crate) fn score(&mut self, texts: &[&[TokenId]], rows: Rows) -> Result<Vec<Vec<Foretold>>> {
        let limits = self.executor.limits();
        let max_row_tokens = match rows {
            Rows::Prefill => limits.max_batch_tokens as usize,
            Rows::Decode => 1,
        };
        let mut progress = self.admit(texts)?;
        while progress.iter().any(|text| text.len < text.inputs.len()) {
            let mut left = limits.max_batch_tokens as usize;
            let mut members = Vec::new();
            for (index, text) in progress.iter_mut().enumerate() {
                let num_tokens = (text.inputs.len() - text.len).min(max_row_tokens).min(left);
                if num_tokens > 0 {
                    self.add_row(index as u32, text, num_tokens, limits.block_size);
                    left -= num_tokens;
                    members.push(index);
                }
            }
            self.run_step()?;
            for (row, index) in members.into_iter().enumerate() {
                self.take_foretold(row, &mut progress[index])?;
            }
        }
        Ok(progress.into_iter().map(|text| text.foretold).collect())
    }

    /// Opens a slot for each text and sets blocks aside.
    fn admit<'t>(&mut self, texts: &[&'t [TokenId]]) -> Result<Vec<Progress<'t>>> {
        let limits = self.executor.limits();
        ensure!(
            texts.len() <= limits.max_batch_rows as usize,
            "{} texts are more than --max-num-seqs {}",
            texts.len(),
            limits.max_batch_rows
        );
        let mut next_block = 0;
        let mut progress = Vec::with_capacity(texts.len());
        for (slot, text) in (0..).zip(texts) {
            let (inputs, targets) = match text {
                [inputs @ .., _] if !inputs.is_empty() => (inputs, &text[1..]),
                _ => bail!("text {slot} has no token that follows another"),
            };
            ensure!(
                text.len() <= limits.max_model_len as usize,
                "text {slot} has {} tokens, more than --max-model-len {}",
                text.len(),
                limits.max_model_len
            );
            if let Some(token) = text.iter().find(|token| **token >= limits.vocab_size) {
                bail!("text {slot} has the token {token}, and the vocabulary only {} tokens", limits.vocab_size);
            }
            let blocks = next_block..next_block + inputs.len().div_ceil(limits.block_size as usize) as u32;
            next_block = blocks.end;
            let sampling = Arc::new(SamplingParams::default());
            self.batch.opens.push(OpenSlot {
                slot: RowSlot(slot),
                sampling,
                num_prompt_tokens: text.len() as u32,
                history: 0..0,
            });
            progress.push(Progress { inputs, targets, len: 0, blocks, num_blocks: 0, foretold: Vec::new() });
        }
        ensure!(
            next_block <= limits.num_blocks,
            "the texts need {next_block} KV blocks of {}; raise --kv-cache-memory-bytes",
            limits.num_blocks
        );
        Ok(progress)
    }

    fn add_row(&mut self, slot: u32, text: &mut Progress<'_>, num_tokens: usize, block_size: u32) {
        let start = text.len;
        text.len += num_tokens;
        let num_blocks = (text.len as u32).div_ceil(block_size);
        let new_blocks = text.blocks.start + text.num_blocks..text.blocks.start + num_blocks;
        assert!(new_blocks.end <= text.blocks.end, "blocks were set aside for the whole text");
        text.num_blocks = num_blocks;
        let input = append(&mut self.batch.tokens, &text.inputs[start..text.len]);
        let targets = append(&mut self.batch.tokens, &text.targets[start..text.len]);
        let first = self.batch.blocks.len() as u32;
        self.batch.blocks.extend(new_blocks.map(BlockId));
        self.batch.rows.push(Row {
            slot: RowSlot(slot),
            start: start as u32,
            input: RowInput::Tokens(input),
            new_blocks: first..self.batch.blocks.len() as u32,
            score: Some(Score { first: 0, targets, num_top: 2 }),
            sample: false,
        });
    }

    fn run_step(&mut self) -> Result<()> {
        self.batch.step = StepId(self.next_step);
        self.next_step += 1;
        let step = self.executor.launch(&self.batch)?;
        self.executor.finish(step, &mut self.output)?;
        self.batch.reset(StepId(self.next_step));
        Ok(())
    }

    fn take_foretold(&self, row: usize, text: &mut Progress<'_>) -> Result<()> {
        let row = &self.output.rows[row];
        if let Some(fault) = row.fault {
            bail!("after {} tokens of a text: {fault:?}", text.foretold.len());
        }
        for position in &self.output.logprobs[row.logprobs.start as usize..row.logprobs.end as usize] {
            let [first, second] = self.output.top[position.top.start as usize..position.top.end as usize] else {
                bail!("the executor gave other than the two most likely tokens of a position");
            };
            text.foretold.push(Foretold { logprob: position.logprob, most_likely: first.0, gap: first.1 - second.1 });
        }
        assert_eq!(text.foretold.len(), text.len, "one for each token so far");
        Ok(())
    }
}

fn append(arena: &mut Vec<TokenId>, tokens: &[TokenId]) -> Range<u32> {
    let start = arena.len() as u32;
    arena.extend_from_slice(tokens);
    start..arena.len() as u32
}
