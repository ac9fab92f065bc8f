//! `pagewise bench`: the engine alone, in this process, under requests in token ids, or the model alone. Figures go to stdout
//! as JSON. Knows no text and no server.

mod figures;
mod host_copy;
mod quality;
mod scorer;
mod workload;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::{Engine, Event, PrefixKeys, RequestHandle, Salt, SubmitRequest};
use model_runner::GapLog;
use serde_json::{Value, json};
use serving_types::{FinishReason, SamplingParams, TokenId, Usage};
use tokio::task::JoinSet;

use crate::cli::{LatencyArgs, ThroughputArgs};
use crate::phases::Phases;
use crate::wiring::{self, Model, Profile, Started};
use crate::{output, report};
use figures::Figures;
pub(crate) use host_copy::host_copy;
pub(crate) use quality::quality;
use workload::Request;

/// Runs `pagewise bench throughput`.
pub(crate) async fn throughput(args: &ThroughputArgs) -> Result<()> {
    // Files first: one that cannot be read or written is told before the model is loaded and the run lost.
    let read = args.requests.as_deref().map(workload::read).transpose()?;
    let output_tokens = args.output_tokens.as_deref().map(OutputFile::create).transpose()?;
    let started = wiring::start(&args.engine)?;
    let _stop = started.stop_at_end();
    output::note(started.describe());
    let requests =
        read.unwrap_or_else(|| draw(&started, args.num_requests, args.workload.input_len, args.workload.output_len));
    let run = run(&started.engine, &requests).await?;
    if let Some(file) = output_tokens {
        file.write(&run)?;
    }
    print(&started.model, Figures::new(&run).into_json())
}

/// Runs `pagewise bench latency`.
pub(crate) async fn latency(args: &LatencyArgs) -> Result<()> {
    let profile = if args.profile_gaps { Profile::Gaps } else { Profile::Off };
    let started = wiring::start_with(&args.engine, profile, &mut Phases::begin())?;
    let _stop = started.stop_at_end();
    output::note(started.describe());
    let (mut batches, mut gaps, mut last) = (Vec::new(), Vec::new(), None);
    for iteration in 0..args.num_iters_warmup.saturating_add(args.num_iters) {
        let requests = draw(&started, args.batch_size, args.workload.input_len, args.workload.output_len);
        // The prompts are the same each time; without this all but the first batch would find them in the cache.
        started.engine.clear_prefix_cache();
        let run = run(&started.engine, &requests).await?;
        if iteration >= args.num_iters_warmup {
            batches.push(run.elapsed);
            last = Some(run);
        }
        let of_batch = started.gaps.as_ref().map(GapLog::take).unwrap_or_default();
        if iteration >= args.num_iters_warmup {
            // Before its first step the device waits for the batch.
            gaps.extend(of_batch.into_iter().skip(1));
        }
    }
    let last = last.expect("at least one batch was measured");
    let mut figures =
        json!({ "batch_ms": report::percentiles_ms(&mut batches), "last_batch": Figures::new(&last).into_json() });
    if args.profile_gaps {
        figures["device_idle_between_steps_ms"] = report::percentiles_ms(&mut gaps);
    }
    print(&started.model, figures)
}

fn draw(started: &Started, num_requests: u32, input_len: u32, output_len: u32) -> Vec<Request> {
    workload::draw(num_requests, input_len, output_len, started.engine.limits().vocab_size, started.model.settings.seed)
}

/// What a run produced.
struct Run {
    elapsed: Duration,
    answers: Vec<Answered>,
    before: engine::EngineStats,
    after: engine::EngineStats,
}

/// One request's tokens, and when they came, counted from the start of the run.
struct Answered {
    tokens: Vec<TokenId>,
    at: Vec<Duration>,
    usage: Usage,
}

/// Submits all requests at once, or as many as the engine accepts and then one for each that ends, and waits for all of
/// their tokens.
async fn run(engine: &Engine, requests: &[Request]) -> Result<Run> {
    let before = engine.stats();
    let start = Instant::now();
    let mut running = JoinSet::new();
    let mut answers = BTreeMap::new();
    for (index, request) in requests.iter().enumerate() {
        if running.len() == engine.max_requests() {
            answers.extend(next_answer(&mut running).await?);
        }
        let handle = submit(engine, request).with_context(|| format!("request {index}"))?;
        running.spawn(async move { (index, receive(handle, start).await) });
    }
    while let Some(answer) = next_answer(&mut running).await? {
        answers.extend([answer]);
    }
    let answers = answers.into_values().collect();
    Ok(Run { elapsed: start.elapsed(), answers, before, after: engine.stats() })
}

/// The next request to end, with its place in the workload.
async fn next_answer(running: &mut JoinSet<(usize, Result<Answered>)>) -> Result<Option<(usize, Answered)>> {
    let Some(ended) = running.join_next().await else { return Ok(None) };
    let (index, answer) = ended?;
    Ok(Some((index, answer.with_context(|| format!("request {index}"))?)))
}

/// Greedy, and exactly as many tokens as wanted: no token ends the request.
fn submit(engine: &Engine, request: &Request) -> Result<RequestHandle> {
    let mut prompt = PrefixKeys::new(&Salt::default(), engine.limits().block_size);
    prompt.extend(&request.prompt_token_ids);
    let sampling = SamplingParams { max_tokens: request.output_tokens, ..SamplingParams::default() };
    Ok(engine.submit(SubmitRequest::new(prompt, Arc::new(sampling)))?)
}

async fn receive(mut handle: RequestHandle, start: Instant) -> Result<Answered> {
    let (mut tokens, mut at) = (Vec::new(), Vec::new());
    while let Some(event) = handle.next().await {
        match event {
            Event::PromptLogprobs { .. } => {}
            Event::Token { token, .. } => {
                tokens.push(token);
                at.push(start.elapsed());
            }
            Event::Finished { reason: FinishReason::Length, usage, .. } => return Ok(Answered { tokens, at, usage }),
            Event::Finished { reason, .. } => bail!("it ended with {reason:?}"),
        }
    }
    bail!("its events ended without a last one")
}

/// The figures, with what they were measured on.
fn print(model: &Model, mut figures: Value) -> Result<()> {
    let settings: Vec<String> = model.settings.to_string().lines().map(str::to_string).collect();
    figures["model"] = json!(model.files.name);
    figures["device"] = json!(model.device);
    figures["settings"] = json!(settings);
    output::print_line(format_args!("{figures:#}"))
}

/// Where the generated tokens go.
struct OutputFile<'p> {
    path: &'p Path,
    file: BufWriter<File>,
}

impl<'p> OutputFile<'p> {
    fn create(path: &'p Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path, file: BufWriter::new(file) })
    }

    fn write(mut self, run: &Run) -> Result<()> {
        let mut write = || -> std::io::Result<()> {
            for answer in &run.answers {
                writeln!(self.file, "{}", json!({ "output_token_ids": answer.tokens }))?;
            }
            self.file.flush()
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }
}
