//! Sampling state of the row slots, the sampling op and its results. Knows jobs and slots; the arithmetic is `sampling`'s.

use core::ops::Range;

use sampling::{Scratch, TokenHistory, TokenScore, choose, score};
use serving_types::{BatchOutput, PositionLogprobs, RowFault, RowOutput, RowSlot, SamplingParams, TokenId};
use tensor_backend::{LogitChoice, LogitJob, Sample, SlotHistory};

use crate::memory::{bytes_of, reserved, zeroed};
use crate::pool::{Pool, Split};
use crate::{CpuBackend, CpuError};

/// Sampling state of each row slot.
#[derive(Debug)]
pub struct Sampler {
    slots: Vec<Slot>,
    workspaces: Vec<Workspace>,
    vocab_size: usize,
}

#[derive(Debug, Default)]
struct Slot {
    params: SamplingParams,
    history: TokenHistory,
    last_sampled: TokenId,
}

/// Memory of one thread.
#[derive(Debug)]
struct Workspace {
    scratch: Scratch,
    /// A copy of logits that are both changed by a choice and reported as they were.
    logits: Vec<f32>,
}

impl Workspace {
    fn new(vocab_size: usize) -> Result<Self, CpuError> {
        Ok(Self { scratch: Scratch::new(vocab_size), logits: reserved(vocab_size, "the sampler")? })
    }

    fn bytes(&self) -> u64 {
        self.scratch.bytes() + bytes_of(&self.logits)
    }
}

/// Halving the jobs until each piece is a thread's share makes at most this many pieces.
fn num_workspaces(num_threads: usize) -> usize {
    num_threads.next_power_of_two()
}

impl Sampler {
    pub(crate) fn new(num_slots: usize, vocab_size: usize, num_threads: usize) -> Result<Self, CpuError> {
        let mut slots = reserved(num_slots, "the sampler")?;
        slots.resize_with(num_slots, Slot::default);
        let workspaces =
            (0..num_workspaces(num_threads)).map(|_| Workspace::new(vocab_size)).collect::<Result<_, _>>()?;
        Ok(Self { slots, workspaces, vocab_size })
    }

    /// Without what the owners of slots brought.
    pub(crate) fn bytes(&self) -> u64 {
        bytes_of(&self.slots) + self.workspaces.iter().map(Workspace::bytes).sum::<u64>()
    }

    /// What [`bytes`](Self::bytes) will be.
    pub(crate) fn planned_bytes(num_slots: usize, vocab_size: usize, num_threads: usize) -> u64 {
        let slots = num_slots * size_of::<Slot>();
        (slots + num_workspaces(num_threads) * vocab_size * (size_of::<TokenId>() + size_of::<f32>())) as u64
    }

    pub(crate) fn open_slot(&mut self, slot: RowSlot, params: &SamplingParams, history: SlotHistory<'_>) {
        let max_more = if params.has_penalties() { (params.max_tokens as usize).min(self.vocab_size) } else { 0 };
        let slot = &mut self.slots[slot.0 as usize];
        slot.params.clone_from(params);
        slot.history.reset(history.tokens, history.num_prompt_tokens as usize, max_more);
    }

    pub(crate) fn last_sampled(&self, slot: RowSlot) -> TokenId {
        self.slots[slot.0 as usize].last_sampled
    }
}

/// Results of one step's jobs.
#[derive(Debug)]
pub struct Samples {
    results: Vec<Outcome>,
    /// `[jobs][max_top]`
    top: Vec<(TokenId, f32)>,
    max_top: usize,
}

impl Samples {
    pub(crate) fn new(max_jobs: usize, max_top: usize) -> Result<Self, CpuError> {
        const WHAT: &str = "samples";
        let (results, top) = (zeroed(max_jobs, Outcome::NONE, WHAT)?, zeroed(max_jobs * max_top, (0, 0.0), WHAT)?);
        Ok(Self { results, top, max_top })
    }

    pub(crate) fn bytes(&self) -> u64 {
        bytes_of(&self.results) + bytes_of(&self.top)
    }

    /// What [`bytes`](Self::bytes) will be.
    pub(crate) fn planned_bytes(max_jobs: usize, max_top: usize) -> u64 {
        (max_jobs * (size_of::<Outcome>() + max_top * size_of::<(TokenId, f32)>())) as u64
    }
}

#[derive(Clone, Debug)]
struct Outcome {
    token: TokenId,
    sampled: bool,
    score: Option<TokenScore>,
    /// Entries of `top` that are filled.
    num_top: usize,
    fault: Option<RowFault>,
}

impl Outcome {
    const NONE: Self = Self { token: 0, sampled: false, score: None, num_top: 0, fault: None };
}

pub(crate) fn sample(pool: &Pool, op: Sample<'_, CpuBackend>) {
    if op.jobs.is_empty() {
        return;
    }
    let Sampler { slots, workspaces, vocab_size } = op.sampler;
    let jobs = &op.inputs.step().jobs[op.jobs.clone()];
    assert_eq!(op.logits.cols(), *vocab_size);
    let max_top = op.samples.max_top;
    let work = Jobs {
        jobs,
        logits: op.logits.rows_mut(0..jobs.len()),
        outcomes: &mut op.samples.results[op.jobs.clone()],
        top: &mut op.samples.top[op.jobs.start * max_top..op.jobs.end * max_top],
        workspaces,
    };
    pool.run(work, jobs.len().div_ceil(pool.num_threads()), |work| {
        let workspace = &mut work.workspaces[0];
        let logits = work.logits.chunks_exact_mut(*vocab_size);
        for (index, ((job, logits), outcome)) in work.jobs.iter().zip(logits).zip(work.outcomes).enumerate() {
            let top = &mut work.top[index * max_top..(index + 1) * max_top];
            *outcome = run_job(job, &slots[job.slot.0 as usize], logits, top, workspace);
        }
    });
    for (job, outcome) in jobs.iter().zip(&op.samples.results[op.jobs]) {
        if outcome.sampled && outcome.fault.is_none() {
            let slot = &mut slots[job.slot.0 as usize];
            slot.last_sampled = outcome.token;
            if slot.params.has_penalties() {
                slot.history.push(outcome.token);
            }
        }
    }
}

fn run_job(
    job: &LogitJob,
    slot: &Slot,
    logits: &mut [f32],
    top: &mut [(TokenId, f32)],
    workspace: &mut Workspace,
) -> Outcome {
    let mut outcome = Outcome::NONE;
    let result = match job.choice {
        LogitChoice::Score { target, num_top } => {
            outcome.token = target;
            outcome.num_top = (num_top as usize).min(logits.len());
            score(logits, target, &mut top[..outcome.num_top]).map(Some)
        }
        LogitChoice::Sample { output_position } => {
            outcome.sampled = true;
            let params = &slot.params;
            let mut chosen =
                |logits: &mut [f32]| choose(logits, params, &slot.history, output_position, &mut workspace.scratch);
            match params.logprobs {
                None => chosen(logits).map(|token| {
                    outcome.token = token;
                    None
                }),
                Some(num_top) => {
                    outcome.num_top = (num_top as usize).min(logits.len());
                    workspace.logits.clear();
                    workspace.logits.extend_from_slice(logits);
                    chosen(&mut workspace.logits).and_then(|token| {
                        outcome.token = token;
                        score(logits, token, &mut top[..outcome.num_top]).map(Some)
                    })
                }
            }
        }
    };
    match result {
        Ok(score) => outcome.score = score,
        Err(fault) => outcome.fault = Some(fault),
    }
    outcome
}

/// Jobs with their part of everything.
struct Jobs<'a> {
    jobs: &'a [LogitJob],
    logits: &'a mut [f32],
    outcomes: &'a mut [Outcome],
    top: &'a mut [(TokenId, f32)],
    workspaces: &'a mut [Workspace],
}

impl Split for Jobs<'_> {
    fn len(&self) -> usize {
        self.jobs.len()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let num_jobs = self.jobs.len();
        let (jobs, more_jobs) = self.jobs.split_at(mid);
        let (logits, more_logits) = self.logits.split_at_mut(self.logits.len() / num_jobs * mid);
        let (outcomes, more_outcomes) = self.outcomes.split_at_mut(mid);
        let (top, more_top) = self.top.split_at_mut(self.top.len() / num_jobs * mid);
        let (workspaces, more_workspaces) = self.workspaces.split_at_mut(1);
        (
            Self { jobs, logits, outcomes, top, workspaces },
            Self {
                jobs: more_jobs,
                logits: more_logits,
                outcomes: more_outcomes,
                top: more_top,
                workspaces: more_workspaces,
            },
        )
    }
}

pub(crate) fn read_samples(samples: &Samples, row_jobs: &[Range<u32>], output: &mut BatchOutput) {
    for jobs in row_jobs {
        let jobs = jobs.start as usize..jobs.end as usize;
        let outcomes = &samples.results[jobs.clone()];
        let (first_token, first_logprob) = (output.tokens.len() as u32, output.logprobs.len() as u32);
        let fault = outcomes.iter().find_map(|outcome| outcome.fault);
        if fault.is_none() {
            for (job, outcome) in jobs.zip(outcomes) {
                if outcome.sampled {
                    output.tokens.push(outcome.token);
                }
                let Some(score) = outcome.score else { continue };
                let top = output.top.len() as u32;
                output.top.extend_from_slice(&samples.top[job * samples.max_top..][..outcome.num_top]);
                output.logprobs.push(PositionLogprobs {
                    token: outcome.token,
                    logprob: score.logprob,
                    rank: score.rank,
                    top: top..output.top.len() as u32,
                });
            }
        }
        output.rows.push(RowOutput {
            tokens: first_token..output.tokens.len() as u32,
            logprobs: first_logprob..output.logprobs.len() as u32,
            fault,
        });
    }
}
