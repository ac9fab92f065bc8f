//! Drives an executor by hand: slots, blocks and batches without a scheduler. Knows no expectations.

use std::sync::Arc;

use backend_cpu::{CpuBackend, CpuConfig, Precision};
use model_runner::{Checkpoint, ModelRunner, Recording, RunnerConfig, WarmUp};
use serving_types::{
    Batch, BatchOutput, BlockCopy, BlockId, CopyId, Executor, HostCopy, OpenSlot, PositionLogprobs, Row, RowInput,
    RowSlot, SamplingParams, Score, StepId, TokenId,
};
use tensor_backend::{Backend, Element};

/// Limits that suit tests. Every test says what it needs otherwise.
pub(crate) fn runner_config() -> RunnerConfig {
    RunnerConfig {
        block_size: 16,
        num_blocks: 64,
        num_host_blocks: 0,
        kv_element: Element::F32.into(),
        max_model_len: 128,
        max_batch_tokens: 128,
        max_batch_rows: 8,
        max_top_logprobs: 128,
        recording: Recording::DecodeSteps,
        warm_up: WarmUp::Off,
    }
}

/// A CPU with two threads, whatever the machine has.
pub(crate) fn cpu(precision: Precision) -> CpuBackend {
    CpuBackend::new(CpuConfig { threads: Some(2), precision }).expect("two threads")
}

/// An executor with its batch, and blocks that are handed out once.
pub(crate) struct Driver<B: Backend = CpuBackend> {
    pub(crate) executor: ModelRunner<B>,
    pub(crate) batch: Batch,
    pub(crate) output: BatchOutput,
    next_block: u32,
    next_step: u64,
}

/// A request on its way. A test may give it blocks of its choice before its first row.
#[derive(Clone, Debug)]
pub(crate) struct Sequence {
    slot: RowSlot,
    /// Tokens that have their KV.
    pub(crate) len: u32,
    pub(crate) blocks: Vec<BlockId>,
    /// Blocks that the executor knows of.
    num_sent: usize,
}

/// What a row does with its new tokens.
#[derive(Clone, Copy, Default)]
pub(crate) struct Ask<'t> {
    /// Index of the first scored position, and the targets.
    pub(crate) score: Option<(u32, &'t [TokenId])>,
    /// Most likely tokens reported with each score.
    pub(crate) num_top: u32,
    pub(crate) sample: bool,
}

impl Ask<'_> {
    pub(crate) fn sample() -> Self {
        Self { sample: true, ..Self::default() }
    }
}

/// One reported position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Position {
    pub(crate) token: TokenId,
    pub(crate) logprob: f32,
    pub(crate) top: Vec<(TokenId, f32)>,
}

impl Driver {
    pub(crate) fn new(precision: Precision, checkpoint: &Checkpoint<'_>, config: &RunnerConfig) -> Self {
        Self::with_backend(cpu(precision), checkpoint, config)
    }
}

impl<B: Backend> Driver<B> {
    pub(crate) fn with_backend(backend: B, checkpoint: &Checkpoint<'_>, config: &RunnerConfig) -> Self {
        let executor = ModelRunner::load(backend, checkpoint, config, &mut |_| {}).expect("the model loads");
        Self { executor, batch: Batch::new(), output: BatchOutput::default(), next_block: 0, next_step: 1 }
    }

    /// Gives a slot to a new sequence, in the next step.
    pub(crate) fn open(&mut self, slot: u32, prompt: &[TokenId], sampling: &SamplingParams) -> Sequence {
        self.reopen(slot, prompt, prompt.len(), sampling)
    }

    /// Gives a slot to a sequence that was preempted: `tokens` are its prompt and its output so far.
    pub(crate) fn reopen(
        &mut self,
        slot: u32,
        tokens: &[TokenId],
        num_prompt_tokens: usize,
        sampling: &SamplingParams,
    ) -> Sequence {
        let history = append(&mut self.batch.tokens, if sampling.has_penalties() { tokens } else { &[] });
        let slot = RowSlot(slot);
        let num_prompt_tokens = num_prompt_tokens as u32;
        self.batch.opens.push(OpenSlot { slot, sampling: Arc::new(sampling.clone()), num_prompt_tokens, history });
        Sequence { slot, len: 0, blocks: Vec::new(), num_sent: 0 }
    }

    /// Adds a row of known tokens to the next step.
    pub(crate) fn row(&mut self, sequence: &mut Sequence, tokens: &[TokenId], ask: Ask<'_>) {
        let input = RowInput::Tokens(append(&mut self.batch.tokens, tokens));
        self.add(sequence, tokens.len() as u32, input, ask);
    }

    /// Adds a row of the token that the sequence sampled last.
    pub(crate) fn row_of_last_sampled(&mut self, sequence: &mut Sequence, ask: Ask<'_>) {
        self.add(sequence, 1, RowInput::LastSampled, ask);
    }

    /// Copies a block before the next step's rows.
    pub(crate) fn copy(&mut self, id: u64, from: BlockId, to: BlockId) {
        self.batch.copies.push(BlockCopy { id: CopyId(id), from, to });
    }

    /// Copies a block to or from the host's pool before the next step's rows.
    pub(crate) fn host_copy(&mut self, copy: HostCopy) {
        self.batch.host_copies.push(copy);
    }

    /// A block that no sequence has.
    pub(crate) fn take_block(&mut self) -> BlockId {
        self.next_block += 1;
        BlockId(self.next_block - 1)
    }

    fn add(&mut self, sequence: &mut Sequence, num_tokens: u32, input: RowInput, ask: Ask<'_>) {
        let start = sequence.len;
        sequence.len += num_tokens;
        while sequence.blocks.len() as u32 * self.executor.limits().block_size < sequence.len {
            sequence.blocks.push(self.take_block());
        }
        let new_blocks = append(&mut self.batch.blocks, &sequence.blocks[sequence.num_sent..]);
        sequence.num_sent = sequence.blocks.len();
        let score = ask.score.map(|(first, targets)| Score {
            first,
            targets: append(&mut self.batch.tokens, targets),
            num_top: ask.num_top,
        });
        self.batch.rows.push(Row { slot: sequence.slot, start, input, new_blocks, score, sample: ask.sample });
    }

    /// Launches and finishes the step.
    pub(crate) fn run(&mut self) -> &BatchOutput {
        self.batch.step = StepId(self.next_step);
        let step = self.executor.launch(&self.batch).expect("the step starts");
        self.executor.finish(step, &mut self.output).expect("the step ends");
        assert_eq!(self.output.rows.len(), self.batch.rows.len());
        self.next_step += 1;
        self.batch.reset(StepId(self.next_step));
        &self.output
    }

    /// The token that a row of the last step sampled.
    pub(crate) fn sampled(&self, row: usize) -> TokenId {
        let row = &self.output.rows[row];
        assert_eq!(row.fault, None);
        let &[token] = self.output.tokens_of(row) else { panic!("one token a sampling row") };
        token
    }

    /// What a row of the last step reported.
    pub(crate) fn positions(&self, row: usize) -> Vec<Position> {
        let row = &self.output.rows[row];
        let logprobs = &self.output.logprobs[row.logprobs.start as usize..row.logprobs.end as usize];
        logprobs
            .iter()
            .map(|PositionLogprobs { token, logprob, top, .. }| Position {
                token: *token,
                logprob: *logprob,
                top: self.output.top[top.start as usize..top.end as usize].to_vec(),
            })
            .collect()
    }

    /// The log-probabilities of known tokens after the first, computed in chunks of at most `chunk` tokens.
    pub(crate) fn score(&mut self, slot: u32, tokens: &[TokenId], chunk: usize, num_top: u32) -> Vec<Position> {
        let mut sequence = self.open(slot, tokens, &SamplingParams::default());
        let (inputs, targets) = (&tokens[..tokens.len() - 1], &tokens[1..]);
        let mut scored = Vec::new();
        for (inputs, targets) in inputs.chunks(chunk).zip(targets.chunks(chunk)) {
            self.row(&mut sequence, inputs, Ask { score: Some((0, targets)), num_top, sample: false });
            self.run();
            assert_eq!(self.output.rows[0].fault, None);
            scored.extend(self.positions(0));
        }
        scored
    }

    /// Continues tokens, the first `num_prompt_tokens` of them prompt, alone in its batches.
    pub(crate) fn generate(
        &mut self,
        slot: u32,
        tokens: &[TokenId],
        num_prompt_tokens: usize,
        sampling: &SamplingParams,
    ) -> Vec<TokenId> {
        let mut sequence = self.reopen(slot, tokens, num_prompt_tokens, sampling);
        self.row(&mut sequence, tokens, Ask::sample());
        self.run();
        let mut output = tokens[num_prompt_tokens..].to_vec();
        output.push(self.sampled(0));
        while output.len() < sampling.max_tokens as usize {
            self.row_of_last_sampled(&mut sequence, Ask::sample());
            self.run();
            output.push(self.sampled(0));
        }
        output
    }
}

fn append<T: Clone>(arena: &mut Vec<T>, items: &[T]) -> std::ops::Range<u32> {
    let start = arena.len() as u32;
    arena.extend_from_slice(items);
    start..arena.len() as u32
}
