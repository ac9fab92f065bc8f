//! What a step costs outside the model: the scheduler alone, the engine around an executor that computes nothing, and the
//! way of the tokens to their readers. All requests decode; prefill is a matter of copying tokens.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use benches::draw_token_ids;
use criterion::{Bencher, Criterion, Throughput};
use engine::{Command, Engine, EngineConfig, EngineCore, EngineRequest, SubmitRequest};
use kv_paging::{PrefixCaching, PrefixKeys, Salt};
use scheduler::{NewRequest, Planned, Scheduler, SchedulerConfig};
use serving_types::{
    Batch, BatchOutput, Executor, ExecutorError, ExecutorLimits, InFlight, MemoryEntry, RequestClass, RequestId,
    RowOutput, SamplingParams, StepId, Timestamp,
};

const BLOCK_SIZE: u32 = 16;
const PROMPT_TOKENS: usize = 100;
/// Decode steps of a round, at whose end all requests end together.
const ROUND: u32 = 300;

fn limits(num_rows: u32) -> ExecutorLimits {
    ExecutorLimits {
        block_size: BLOCK_SIZE,
        num_blocks: num_rows * 64,
        num_host_blocks: 0,
        max_batch_tokens: num_rows * PROMPT_TOKENS as u32,
        max_batch_rows: num_rows,
        max_model_len: 1024,
        vocab_size: 32_000,
        max_top_logprobs: 0,
        max_steps_in_flight: 1,
    }
}

fn prompt(seed: u64) -> PrefixKeys {
    let mut keys = PrefixKeys::with_capacity(&Salt::default(), BLOCK_SIZE, PROMPT_TOKENS as u32 + ROUND);
    keys.extend(&draw_token_ids(PROMPT_TOKENS, 32_000, seed));
    keys
}

fn sampling() -> Arc<SamplingParams> {
    Arc::new(SamplingParams { max_tokens: ROUND, ..SamplingParams::default() })
}

/// Answers each row that samples with the token 7.
fn answer(batch: &Batch, output: &mut BatchOutput) {
    output.clear();
    for row in &batch.rows {
        let start = output.tokens.len() as u32;
        output.tokens.extend(row.sample.then_some(7));
        output.rows.push(RowOutput { tokens: start..output.tokens.len() as u32, ..RowOutput::default() });
    }
}

/// Plans steps of `num_rows` decodes while `num_waiting` requests wait, and times nothing else.
pub(crate) fn plan_steps(num_rows: u32, num_waiting: u32, num_steps: u64) -> Duration {
    let config = SchedulerConfig::from_limits(&limits(num_rows), usize::MAX, PrefixCaching::On);
    let (mut batch, mut output, mut updates) = (Batch::new(), BatchOutput::default(), Vec::new());
    let mut elapsed = Duration::ZERO;
    let mut num_left = num_steps;
    while num_left > 0 {
        let mut scheduler = Scheduler::new(config).expect("valid limits");
        for id in 0..num_rows + num_waiting {
            let id = RequestId(id.into());
            let request = NewRequest {
                id,
                prompt: prompt(id.0),
                sampling: sampling(),
                class: RequestClass::default(),
                first_token_deadline: None,
                deadline: None,
            };
            scheduler.submit(request).expect("the queue has no bound");
        }
        for step in 0..u64::from(ROUND).min(num_left + 1) {
            let started = Instant::now();
            assert_eq!(black_box(&mut scheduler).plan(StepId(step), &mut batch), Planned::Batch);
            if step > 0 {
                elapsed += started.elapsed();
                num_left -= 1;
            }
            answer(&batch, &mut output);
            scheduler.complete(StepId(step), &output, &mut updates);
            updates.clear();
        }
    }
    elapsed
}

pub(crate) fn scheduler(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scheduler");
    for (num_rows, num_waiting) in [(256, 0), (1024, 0), (1024, 10_000)] {
        let name = format!("plan {num_rows} decodes, {num_waiting} waiting");
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|num_steps| plan_steps(num_rows, num_waiting, num_steps));
        });
    }
    group.finish();
}

/// Computes nothing.
struct InstantExecutor {
    limits: ExecutorLimits,
    output: BatchOutput,
}

impl InstantExecutor {
    fn boxed(num_rows: u32) -> Box<dyn Executor> {
        Box::new(Self { limits: limits(num_rows), output: BatchOutput::default() })
    }
}

impl Executor for InstantExecutor {
    fn limits(&self) -> ExecutorLimits {
        self.limits
    }

    fn memory(&self) -> Vec<MemoryEntry> {
        Vec::new()
    }

    fn launch(&mut self, batch: &Batch) -> Result<InFlight, ExecutorError> {
        answer(batch, &mut self.output);
        Ok(InFlight::new(batch.step))
    }

    fn finish(&mut self, _: InFlight, output: &mut BatchOutput) -> Result<(), ExecutorError> {
        std::mem::swap(output, &mut self.output);
        Ok(())
    }
}

/// Times steps of `num_rows` decodes, from the plan to the events. The executor's own share is a few nanoseconds a row.
pub(crate) fn engine_steps(num_rows: u32, num_steps: u64) -> Duration {
    let mut elapsed = Duration::ZERO;
    let mut num_left = num_steps;
    while num_left > 0 {
        let mut core = EngineCore::new(InstantExecutor::boxed(num_rows), EngineConfig::default()).expect("valid");
        let submit = |id| {
            let (id, prompt, sampling) = (RequestId(id), prompt(id), sampling());
            Command::Submit(Box::new(EngineRequest {
                id,
                prompt,
                sampling,
                class: RequestClass::default(),
                first_token_deadline: None,
                deadline: None,
            }))
        };
        let (mut inbox, mut outbox) = ((0..num_rows.into()).map(submit).collect(), Vec::new());
        core.step(Timestamp(0), &mut inbox, &mut outbox);
        for _ in 1..u64::from(ROUND).min(num_left + 1) {
            outbox.clear();
            let started = Instant::now();
            black_box(&mut core).step(Timestamp(0), &mut inbox, &mut outbox);
            elapsed += started.elapsed();
            num_left -= 1;
        }
    }
    elapsed
}

/// Times `num_rows` requests through a running engine, each read by a task of its own on one other thread.
fn time_stream(bencher: &mut Bencher<'_>, num_rows: u32) {
    let core = EngineCore::new(InstantExecutor::boxed(num_rows), EngineConfig::default()).expect("valid limits");
    let engine = Engine::spawn(core);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    bencher.iter_custom(|num_rounds| {
        let mut elapsed = Duration::ZERO;
        for _ in 0..num_rounds {
            let prompts: Vec<_> = (0..num_rows.into()).map(prompt).collect();
            let started = Instant::now();
            runtime.block_on(async {
                let readers = prompts.into_iter().map(|prompt| {
                    let request = SubmitRequest::new(prompt, sampling());
                    let mut handle = engine.submit(request).expect("there is room");
                    tokio::spawn(async move {
                        let mut num_events = 0_u32;
                        while handle.next().await.is_some() {
                            num_events += 1;
                        }
                        assert_eq!(num_events, ROUND + 1);
                    })
                });
                for reader in readers.collect::<Vec<_>>() {
                    reader.await.expect("a reader ends");
                }
            });
            elapsed += started.elapsed();
        }
        elapsed
    });
}

pub(crate) fn engine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    for num_rows in [256, 1024] {
        group.throughput(Throughput::Elements(num_rows.into()));
        group.bench_function(format!("step of {num_rows} decodes"), |bencher| {
            bencher.iter_custom(|num_steps| engine_steps(num_rows, num_steps));
        });
        group.throughput(Throughput::Elements(u64::from(num_rows) * u64::from(ROUND)));
        group.sample_size(10);
        group.bench_function(format!("{ROUND} tokens to each of {num_rows} readers"), |bencher| {
            time_stream(bencher, num_rows);
        });
    }
    group.finish();
}
