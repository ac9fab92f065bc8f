//! Sampling state of the row slots on the device, and the results of a step on their way back. Knows parameters and places,
//! not requests.

use core::ops::Range;
use std::collections::BTreeMap;
use std::sync::Arc;

use kernels_sys::{
    PW_FAULT_NONE, PW_MAX_LOGIT_BIASES, PW_MAX_STOP_TOKENS, PW_SEEN_TOKEN_BITS, PwLogitBias, PwSample, PwSampleResult,
    PwSamplerState, PwSeenToken, PwSlotParams, PwTopToken,
};
use serving_types::{BatchOutput, PositionLogprobs, RowFault, RowOutput, RowSlot, SamplingParams, TokenId};
use tensor_backend::{LogitChoice, LogitJob, SamplerLimits, SlotHistory};

use crate::CudaError;
use crate::driver::{Device, DeviceMemory, DeviceRange, Event, Pinned};
use crate::kernels::Kernels;
use crate::step_clock::StepClock;

/// What a slot's owner wants reported with each token it samples.
type NumTop = Option<u32>;

/// Where each table begins, in bytes.
#[derive(Clone, Copy, Debug)]
struct Tables {
    params: usize,
    biases: usize,
    stop_tokens: usize,
    history: usize,
    history_lens: usize,
    last_sampled: usize,
    scratch: usize,
    num_bytes: usize,
    /// Distinct tokens that a slot may have seen.
    max_history: usize,
}

impl Tables {
    fn new(kernels: &Kernels, limits: &SamplerLimits) -> Self {
        let &SamplerLimits { max_slots, vocab_size, max_context_len, max_jobs_at_once } = limits;
        let max_history = max_context_len.min(vocab_size);
        let mut end = 0;
        let mut place = |bytes: usize| {
            let begin = end;
            end = (begin + bytes).next_multiple_of(16);
            begin
        };
        let params = place(max_slots * size_of::<PwSlotParams>());
        let biases = place(max_slots * PW_MAX_LOGIT_BIASES as usize * size_of::<PwLogitBias>());
        let stop_tokens = place(max_slots * PW_MAX_STOP_TOKENS as usize * size_of::<i32>());
        let history = place(max_slots * max_history * size_of::<PwSeenToken>());
        let history_lens = place(max_slots * size_of::<i32>());
        let last_sampled = place(max_slots * size_of::<i32>());
        let scratch = place(kernels.sample_scratch_bytes(max_jobs_at_once, vocab_size));
        let num_bytes = place(0);
        Self { params, biases, stop_tokens, history, history_lens, last_sampled, scratch, num_bytes, max_history }
    }
}

/// Sampling state of each row slot.
#[derive(Debug)]
pub struct Sampler {
    memory: DeviceMemory,
    tables: Tables,
    limits: SamplerLimits,
    num_top: Vec<NumTop>,
}

impl Sampler {
    pub(crate) fn new(device: &Arc<Device>, kernels: &Kernels, limits: &SamplerLimits) -> Result<Self, CudaError> {
        let tables = Tables::new(kernels, limits);
        let memory = DeviceMemory::zeroed(device, tables.num_bytes, "sampling state")?;
        Ok(Self { memory, tables, limits: *limits, num_top: vec![None; limits.max_slots] })
    }

    pub(crate) fn planned_bytes(kernels: &Kernels, limits: &SamplerLimits) -> u64 {
        Tables::new(kernels, limits).num_bytes as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.memory.bytes() as u64
    }

    /// The token that each slot sampled last.
    pub(crate) fn last_sampled(&self) -> *const i32 {
        self.at(self.tables.last_sampled).as_ptr()
    }

    /// Gives a slot a new owner.
    pub(crate) fn open_slot(
        &mut self,
        device: &Device,
        slot: RowSlot,
        params: &SamplingParams,
        history: SlotHistory<'_>,
    ) -> Result<(), CudaError> {
        let slot = slot.0 as usize;
        assert!(slot < self.limits.max_slots, "slot {slot} exists");
        let biases = limited("logit biases", &params.logit_bias, PW_MAX_LOGIT_BIASES as usize)?;
        let stop_tokens = limited("stop tokens", &params.stop_token_ids, PW_MAX_STOP_TOKENS as usize)?;
        let seen = if params.has_penalties() { Some(seen_tokens(history)) } else { None };
        let history_len = seen.as_ref().map_or(0, Vec::len);
        assert!(history_len <= self.tables.max_history, "a history is no longer than a context");
        let tables = self.tables;
        let send = |place: usize, entry_bytes: usize, bytes: Vec<u8>| {
            device.copy_to_device(self.at(place + slot * entry_bytes), &bytes)
        };
        let device_params = PwSlotParams {
            temperature: params.temperature,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            seed: params.seed,
            sample_index: params.sample_index,
            top_k: i32::try_from(params.top_k).unwrap_or(0),
            min_tokens: i32::try_from(params.min_tokens).unwrap_or(i32::MAX),
            num_biases: biases.len() as i32,
            num_stop_tokens: stop_tokens.len() as i32,
            num_top: params.logprobs.map_or(-1, |num_top| num_top as i32),
            history_len: seen.as_ref().map_or(-1, |seen| seen.len() as i32),
            reserved: 0,
        };
        send(tables.params, size_of::<PwSlotParams>(), params_bytes(&device_params))?;
        let bias_bytes = biases.iter().flat_map(|(token, bias)| [token.to_le_bytes(), bias.to_le_bytes()]);
        send(tables.biases, PW_MAX_LOGIT_BIASES as usize * size_of::<PwLogitBias>(), bias_bytes.flatten().collect())?;
        let stop_bytes = stop_tokens.iter().flat_map(|token| token.to_le_bytes());
        send(tables.stop_tokens, PW_MAX_STOP_TOKENS as usize * size_of::<i32>(), stop_bytes.collect())?;
        if let Some(seen) = seen {
            let bytes = seen.iter().flat_map(|seen| seen.to_le_bytes());
            send(tables.history, tables.max_history * size_of::<PwSeenToken>(), bytes.collect())?;
        }
        send(tables.history_lens, size_of::<i32>(), (history_len as i32).to_le_bytes().to_vec())?;
        self.num_top[slot] = params.logprobs;
        Ok(())
    }

    fn state(&self) -> PwSamplerState {
        PwSamplerState {
            params: self.at(self.tables.params).as_ptr(),
            biases: self.at(self.tables.biases).as_ptr(),
            stop_tokens: self.at(self.tables.stop_tokens).as_ptr(),
            history: self.at(self.tables.history).as_ptr(),
            history_lens: self.at(self.tables.history_lens).as_ptr(),
            last_sampled: self.at(self.tables.last_sampled).as_ptr(),
            max_history: self.tables.max_history as i32,
            vocab_size: self.limits.vocab_size as i32,
        }
    }

    fn at(&self, place: usize) -> DeviceRange {
        self.memory.range().part(place, self.memory.bytes() - place)
    }
}

fn limited<'t, T>(what: &'static str, items: &'t [T], max: usize) -> Result<&'t [T], CudaError> {
    if items.len() > max { Err(CudaError::TooMany { what, num: items.len(), max }) } else { Ok(items) }
}

/// The distinct tokens of a history with their counts in the output, as the device keeps them.
fn seen_tokens(history: SlotHistory<'_>) -> Vec<PwSeenToken> {
    const MAX_COUNT: u32 = (1 << (u32::BITS - PW_SEEN_TOKEN_BITS as u32)) - 1;
    let num_prompt = (history.num_prompt_tokens as usize).min(history.tokens.len());
    let mut counts: BTreeMap<TokenId, u32> = BTreeMap::new();
    for (index, token) in history.tokens.iter().enumerate() {
        let count = counts.entry(*token).or_default();
        *count = (*count + u32::from(index >= num_prompt)).min(MAX_COUNT);
    }
    counts.into_iter().map(|(token, count)| token | count << PW_SEEN_TOKEN_BITS).collect()
}

/// As the device reads them: the fields in their order, without gaps.
fn params_bytes(params: &PwSlotParams) -> Vec<u8> {
    let &PwSlotParams {
        temperature,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        seed,
        sample_index,
        top_k,
        min_tokens,
        num_biases,
        num_stop_tokens,
        num_top,
        history_len,
        reserved,
    } = params;
    let floats =
        [temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty].map(f32::to_le_bytes);
    let numbers =
        [top_k, min_tokens, num_biases, num_stop_tokens, num_top, history_len, reserved].map(i32::to_le_bytes);
    let mut bytes = floats.concat();
    bytes.extend(seed.to_le_bytes());
    bytes.extend(sample_index.to_le_bytes());
    bytes.extend(numbers.concat());
    assert_eq!(bytes.len(), size_of::<PwSlotParams>());
    bytes
}

/// A result as the device writes it.
type ResultWords = [i32; size_of::<PwSampleResult>() / 4];
/// A likely token as the device writes it: id, bits of the log-probability.
type TopWords = [i32; size_of::<PwTopToken>() / 4];

#[allow(unsafe_code, reason = "marks plain data")]
mod plain {
    use super::{ResultWords, TopWords};
    use crate::driver::PlainData;

    // SAFETY: numbers.
    unsafe impl PlainData for ResultWords {}
    // SAFETY: numbers.
    unsafe impl PlainData for TopWords {}
}

/// Results of one step's jobs.
#[derive(Debug)]
pub struct Samples {
    results: DeviceMemory,
    /// `[jobs][max_top]`
    top: DeviceMemory,
    max_top: usize,
    host_results: Pinned<ResultWords>,
    host_top: Pinned<TopWords>,
    /// What each job is, as of the last step.
    kinds: Vec<JobKind>,
    done: Event,
}

/// What the host must know of a job to report it.
#[derive(Clone, Copy, Debug)]
struct JobKind {
    samples: bool,
    num_top: NumTop,
}

impl Samples {
    pub(crate) fn new(device: &Arc<Device>, max_jobs: usize, max_top: usize) -> Result<Self, CudaError> {
        let (result_bytes, top_bytes) = Self::bytes_of(max_jobs, max_top);
        Ok(Self {
            results: DeviceMemory::zeroed(device, result_bytes, "samples")?,
            top: DeviceMemory::zeroed(device, top_bytes, "samples")?,
            max_top,
            host_results: Pinned::zeroed(device, max_jobs)?,
            host_top: Pinned::zeroed(device, max_jobs * max_top)?,
            kinds: vec![JobKind { samples: false, num_top: None }; max_jobs],
            done: Event::new(device)?,
        })
    }

    fn bytes_of(max_jobs: usize, max_top: usize) -> (usize, usize) {
        (max_jobs * size_of::<PwSampleResult>(), max_jobs * max_top * size_of::<PwTopToken>())
    }

    pub(crate) fn planned_bytes(max_jobs: usize, max_top: usize) -> u64 {
        let (result_bytes, top_bytes) = Self::bytes_of(max_jobs, max_top);
        (result_bytes + top_bytes) as u64
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.results.bytes() + self.top.bytes()) as u64
    }

    /// Waits for the step and reports it row by row.
    pub(crate) fn read(&self, row_jobs: &[Range<u32>], output: &mut BatchOutput) -> Result<(), CudaError> {
        self.done.wait()?;
        for jobs in row_jobs {
            self.read_row(jobs.start as usize..jobs.end as usize, output);
        }
        Ok(())
    }

    fn read_row(&self, jobs: Range<usize>, output: &mut BatchOutput) {
        let (first_token, first_logprob) = (output.tokens.len() as u32, output.logprobs.len() as u32);
        let results = &self.host_results.as_slice()[jobs.clone()];
        let is_sound = results.iter().all(|[_, fault, ..]| *fault == PW_FAULT_NONE);
        if is_sound {
            for (job, &[token, _, logprob, rank, num_top, ..]) in jobs.zip(results) {
                let token = token as TokenId;
                if self.kinds[job].samples {
                    output.tokens.push(token);
                }
                if self.kinds[job].num_top.is_none() {
                    continue;
                }
                let first_top = output.top.len() as u32;
                let top = &self.host_top.as_slice()[job * self.max_top..][..num_top as usize];
                output.top.extend(top.iter().map(|[token, bits]| (*token as TokenId, f32::from_bits(*bits as u32))));
                output.logprobs.push(PositionLogprobs {
                    token,
                    logprob: f32::from_bits(logprob as u32),
                    rank: rank as u32,
                    top: first_top..output.top.len() as u32,
                });
            }
        }
        output.rows.push(RowOutput {
            tokens: first_token..output.tokens.len() as u32,
            logprobs: first_logprob..output.logprobs.len() as u32,
            fault: (!is_sound).then_some(RowFault::NonFiniteLogits),
        });
    }
}

/// A range of jobs with all that choosing for them needs.
pub(crate) struct SampleRun<'a> {
    pub(crate) jobs: Range<usize>,
    /// The step's jobs, as the host knows them.
    pub(crate) host_jobs: &'a [LogitJob],
    /// The range's jobs on the device.
    pub(crate) device_jobs: *const kernels_sys::PwLogitJob,
    /// `[jobs, vocab]`
    pub(crate) logits: DeviceRange,
    /// Whose step may end with it.
    pub(crate) clock: Option<&'a StepClock>,
}

/// Enqueues the choices and their way back, and marks the place to wait for.
pub(crate) fn sample(
    device: &Device,
    kernels: &Kernels,
    sampler: &Sampler,
    samples: &mut Samples,
    run: SampleRun<'_>,
) -> Result<(), CudaError> {
    let SampleRun { jobs, host_jobs, device_jobs, logits, clock } = run;
    if jobs.is_empty() {
        clock.map_or(Ok(()), StepClock::end)?;
        return samples.done.record();
    }
    assert!(jobs.len() <= sampler.limits.max_jobs_at_once, "no more jobs at a time than there is scratch for");
    let mut wants_top = false;
    for (kind, job) in samples.kinds[jobs.clone()].iter_mut().zip(&host_jobs[jobs.clone()]) {
        *kind = match job.choice {
            LogitChoice::Sample { .. } => JobKind { samples: true, num_top: sampler.num_top[job.slot.0 as usize] },
            LogitChoice::Score { num_top, .. } => JobKind { samples: false, num_top: Some(num_top) },
        };
        wants_top |= kind.num_top.is_some_and(|num_top| num_top > 0);
    }
    let (result_bytes, top_bytes) = (size_of::<PwSampleResult>(), samples.max_top * size_of::<PwTopToken>());
    let results = samples.results.range().part(jobs.start * result_bytes, jobs.len() * result_bytes);
    let top = samples.top.range().part(jobs.start * top_bytes, jobs.len() * top_bytes);
    kernels.sample(&PwSample {
        logits: logits.as_ptr(),
        jobs: device_jobs,
        state: sampler.state(),
        results: results.as_ptr(),
        top: top.as_ptr(),
        max_top: samples.max_top as i32,
        rows: jobs.len() as i32,
        scratch: sampler.at(sampler.tables.scratch).as_ptr(),
    })?;
    clock.map_or(Ok(()), StepClock::end)?;
    device.copy_to_host(samples.host_results.as_mut_slice()[jobs.clone()].as_flattened_mut(), results)?;
    if wants_top {
        let host = &mut samples.host_top.as_mut_slice()[jobs.start * samples.max_top..jobs.end * samples.max_top];
        device.copy_to_host(host.as_flattened_mut(), top)?;
    }
    samples.done.record()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_becomes_distinct_tokens_with_their_counts_in_the_output() {
        let count = |n: u32| n << PW_SEEN_TOKEN_BITS;
        let history = SlotHistory { tokens: &[5, 1, 5, 9, 5, 9], num_prompt_tokens: 3 };
        assert_eq!(seen_tokens(history), [1, 5 | count(1), 9 | count(2)]);
        let often = vec![7; 10_000];
        assert_eq!(seen_tokens(SlotHistory { tokens: &often, num_prompt_tokens: 0 }), [7 | count(4095)]);
    }

    #[test]
    fn params_have_no_gaps() {
        let params = PwSlotParams { temperature: 1.0, seed: 2, reserved: 3, ..PwSlotParams::default() };
        let bytes = params_bytes(&params);
        assert_eq!(bytes[..4], 1.0_f32.to_le_bytes());
        assert_eq!(bytes[std::mem::offset_of!(PwSlotParams, seed)..][..8], 2_u64.to_le_bytes());
        assert_eq!(bytes[std::mem::offset_of!(PwSlotParams, reserved)..][..4], 3_i32.to_le_bytes());
    }
}
