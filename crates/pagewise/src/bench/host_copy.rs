//! `pagewise bench host-copy`: what it costs that a prefix comes back from the host's KV pool, for its own request and for
//! others that decode meanwhile. Knows no device but for its copy rate.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use engine::{Engine, Event};
use serde_json::{Value, json};
use serving_types::TokenId;
use tokio::task::JoinSet;

use super::workload::{self, Request};
use super::{print, run, submit};
use crate::cli::HostCopyArgs;
use crate::wiring::{self, Started};
use crate::{device, output, report};

/// Bytes by which the copy rate is measured.
const RATE_BYTES: usize = 1 << 30;
/// Steps of the crowd before the first prefix comes back, and between two of them.
const NUM_STEPS_BETWEEN: usize = 20;
/// Fillers are this long if the context allows it.
const FILLER_LEN: u32 = 2048;

/// Runs `pagewise bench host-copy`.
pub(crate) async fn host_copy(args: &HostCopyArgs) -> Result<()> {
    let started = wiring::start(&args.engine)?;
    let _stop = started.stop_at_end();
    output::note(started.describe());
    let bench = HostCopy::new(&started, args)?;
    let rates = device::copy_rates(started.model.gpu, RATE_BYTES)?;
    let first = bench.compute_prefixes().await?;
    bench.fill(1).await?;
    let alone = bench.return_alone().await?;
    bench.fill(2).await?;
    let beside = bench.return_beside_decodes().await?;

    let bytes = f64::from(bench.prefix_blocks()) * started.model.settings.block_bytes as f64;
    let bytes_ms = bytes / rates.to_device * 1e3;
    let copy_ms = median_ms(&alone.ttft) - median_ms(&first.hit_ttft);
    let figures = json!({
        "copy_rate_gb_per_s": { "to_device": rates.to_device / 1e9, "to_host": rates.to_host / 1e9 },
        "prefix_tokens": args.prefix_len,
        "prefix_bytes": bytes,
        "prefix_bytes_at_copy_rate_ms": bytes_ms,
        "computed_ttft_ms": percentiles(&first.ttft),
        "device_hit_ttft_ms": percentiles(&first.hit_ttft),
        "host_hit_ttft_ms": percentiles(&alone.ttft),
        "return_ms": copy_ms,
        "return_over_copy_rate": copy_ms / bytes_ms,
        "host_hit_ttft_beside_decodes_ms": percentiles(&beside.ttft),
        "decode_step_ms": percentiles(&beside.quiet_steps),
        "decode_step_beside_copies_ms": percentiles(&beside.copying_steps),
        "decode_slowdown": median_ms(&beside.copying_steps) / median_ms(&beside.quiet_steps) - 1.0,
        "steps_beside_copies": beside.copying_steps.len(),
        "returned_tokens": { "expected": 2 * bench.num_prefix_tokens(), "seen": alone.num_fetched + beside.num_fetched },
        "requests_equal_to_computed": bench.num_equal(&first.tokens, &alone.tokens),
        "requests_equal_to_device_hit": bench.num_equal(&first.hit_tokens, &alone.tokens),
        "first_tokens_equal_to_device_hit": bench.num_equal(&first_of(&first.hit_tokens), &beside.tokens),
        "requests": args.num_prefixes,
    });
    print(&started.model, figures)
}

/// The workload.
struct HostCopy<'a> {
    engine: &'a Engine,
    args: &'a HostCopyArgs,
    seed: u64,
    /// Prompts that begin with the prefixes, one token longer.
    requests: Vec<Request>,
}

/// What came of the prefixes when they were computed, and again while the device held them.
struct First {
    ttft: Vec<Duration>,
    tokens: Vec<Vec<TokenId>>,
    hit_ttft: Vec<Duration>,
    hit_tokens: Vec<Vec<TokenId>>,
}

/// What came of them when they came back to an engine with nothing else to do.
struct Alone {
    ttft: Vec<Duration>,
    tokens: Vec<Vec<TokenId>>,
    num_fetched: u64,
}

/// What came of them when they came back while others decoded.
struct Beside {
    ttft: Vec<Duration>,
    tokens: Vec<Vec<TokenId>>,
    num_fetched: u64,
    copying_steps: Vec<Duration>,
    quiet_steps: Vec<Duration>,
}

impl<'a> HostCopy<'a> {
    fn new(started: &'a Started, args: &'a HostCopyArgs) -> Result<Self> {
        let limits = started.engine.limits();
        let block_size = limits.block_size;
        if limits.num_host_blocks == 0 {
            bail!("--host-kv-bytes is missing: there is no pool to copy to and from");
        }
        if !args.prefix_len.is_multiple_of(block_size) {
            bail!("--prefix-len {}: it must be a multiple of the block size, {block_size}", args.prefix_len);
        }
        let prompt_len = args.prefix_len + 1;
        let blocks = |len: u32, num: u32| len.div_ceil(block_size).saturating_mul(num);
        let needed = blocks(prompt_len + args.output_len, args.num_prefixes)
            .saturating_add(blocks(args.input_len + args.decode_len, args.batch_size));
        if needed > limits.num_blocks {
            bail!(
                "{needed} KV blocks are needed for all prefixes and the batch at once, and there are {}: raise \
                 --kv-cache-memory-bytes, or lower --num-prefixes, --prefix-len or --batch-size",
                limits.num_blocks
            );
        }
        // Everything that is in the device's pool at any time is in the host's too, and the prefixes are not the newest there.
        let needed = limits.num_blocks.saturating_mul(2).saturating_add(needed);
        if needed > limits.num_host_blocks {
            bail!(
                "the host's pool has {} blocks and needs {needed}, to keep the prefixes while the device's pool is filled with \
                 others: raise --host-kv-bytes, or lower --kv-cache-memory-bytes",
                limits.num_host_blocks
            );
        }
        let seed = started.model.settings.seed;
        let requests = workload::draw(args.num_prefixes, prompt_len, args.output_len, limits.vocab_size, seed);
        Ok(Self { engine: &started.engine, args, seed, requests })
    }

    fn prefix_blocks(&self) -> u32 {
        self.args.prefix_len / self.engine.limits().block_size
    }

    /// Of all prefixes.
    fn num_prefix_tokens(&self) -> u64 {
        u64::from(self.args.prefix_len) * u64::from(self.args.num_prefixes)
    }

    /// One after the other, each twice.
    async fn compute_prefixes(&self) -> Result<First> {
        let mut first = First { ttft: vec![], tokens: vec![], hit_ttft: vec![], hit_tokens: vec![] };
        for request in &self.requests {
            for (ttft, tokens) in [(&mut first.ttft, &mut first.tokens), (&mut first.hit_ttft, &mut first.hit_tokens)] {
                let mut answer = run(self.engine, std::slice::from_ref(request)).await?;
                let answer = answer.answers.pop().expect("one request, one answer");
                ttft.push(answer.at[0]);
                tokens.push(answer.tokens);
            }
        }
        Ok(first)
    }

    /// Fills the device's pool with other prompts, so that the host's alone keeps the prefixes.
    async fn fill(&self, round: u64) -> Result<()> {
        let limits = self.engine.limits();
        let len = FILLER_LEN.min(limits.max_model_len - 1);
        // A prompt's last block may not be full and is not kept; and one more, to be sure of the last block.
        let num_kept = (len / limits.block_size).max(1);
        let num_prompts = limits.num_blocks / num_kept + 1;
        let fillers = workload::draw(num_prompts, len, 1, limits.vocab_size, self.seed ^ (round << 32));
        // One by one, so that no two of them need to fit at once.
        for filler in &fillers {
            run(self.engine, std::slice::from_ref(filler)).await?;
        }
        Ok(())
    }

    async fn return_alone(&self) -> Result<Alone> {
        let before = self.engine.stats().host_hit_tokens;
        let (mut ttft, mut tokens) = (Vec::new(), Vec::new());
        for request in &self.requests {
            let mut run = run(self.engine, std::slice::from_ref(request)).await?;
            let answer = run.answers.pop().expect("one request, one answer");
            ttft.push(answer.at[0]);
            tokens.push(answer.tokens);
        }
        Ok(Alone { ttft, tokens, num_fetched: self.engine.stats().host_hit_tokens - before })
    }

    async fn return_beside_decodes(&self) -> Result<Beside> {
        let before = self.engine.stats().host_hit_tokens;
        let mut crowd = Crowd::start(self).await?;
        crowd.pass(NUM_STEPS_BETWEEN).await?;
        let (mut ttft, mut tokens, mut windows) = (Vec::new(), Vec::new(), Vec::new());
        for request in &self.requests {
            let request = Request { output_tokens: 1, ..request.clone() };
            let submitted = Instant::now();
            let mut run = run(self.engine, std::slice::from_ref(&request)).await?;
            let answer = run.answers.pop().expect("one request, one answer");
            windows.push((submitted, submitted + answer.at[0]));
            ttft.push(answer.at[0]);
            tokens.push(answer.tokens);
            crowd.pass(NUM_STEPS_BETWEEN).await?;
        }
        let (copying_steps, quiet_steps) = split_steps(&crowd.stop(), &windows);
        let num_fetched = self.engine.stats().host_hit_tokens - before;
        Ok(Beside { ttft, tokens, num_fetched, copying_steps, quiet_steps })
    }

    fn num_equal(&self, some: &[Vec<TokenId>], others: &[Vec<TokenId>]) -> usize {
        some.iter().zip(others).filter(|(one, other)| one == other).count()
    }
}

/// Requests that decode all the time.
struct Crowd {
    members: JoinSet<Result<()>>,
    /// When the first member's tokens came.
    token_times: Arc<Mutex<Vec<Instant>>>,
}

impl Crowd {
    /// Returns when all have their first token.
    async fn start(bench: &HostCopy<'_>) -> Result<Self> {
        let args = bench.args;
        let vocab_size = bench.engine.limits().vocab_size;
        let requests = workload::draw(args.batch_size, args.input_len, args.decode_len, vocab_size, !bench.seed);
        let mut crowd = Self { members: JoinSet::new(), token_times: Arc::default() };
        let mut first_tokens = JoinSet::new();
        for (index, request) in requests.iter().enumerate() {
            let mut handle = submit(bench.engine, request)?;
            let times = (index == 0).then(|| Arc::clone(&crowd.token_times));
            let (has_token, first_token) = tokio::sync::oneshot::channel();
            first_tokens.spawn(first_token);
            crowd.members.spawn(async move {
                let mut has_token = Some(has_token);
                while let Some(event) = handle.next().await {
                    match event {
                        Event::Token { .. } => {
                            if let Some(times) = &times {
                                times.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
                            }
                            if let Some(has_token) = has_token.take() {
                                // Nobody listens any more if another member has failed.
                                let _ = has_token.send(());
                            }
                        }
                        Event::PromptLogprobs { .. } => {}
                        Event::Finished { reason, .. } => {
                            bail!("a request of the batch ended with {reason:?}; a larger --decode-len keeps it longer")
                        }
                    }
                }
                bail!("a request of the batch ended")
            });
        }
        while let Some(first_token) = first_tokens.join_next().await {
            first_token?.context("a request of the batch ended before its first token")?;
        }
        Ok(crowd)
    }

    /// Lets so many steps pass.
    async fn pass(&mut self, num_steps: usize) -> Result<()> {
        let end = self.times().len() + num_steps;
        while self.times().len() < end {
            if let Some(ended) = self.members.try_join_next() {
                ended??;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn times(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.token_times.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all of it.
    fn stop(self) -> Vec<Instant> {
        std::mem::take(&mut *self.times())
    }
}

/// Steps between tokens: those during which a prefix was on its way, and those during which nothing else was going on. The
/// windows are from the submission of a request to its first token. The step that computes this token, whose other tokens
/// come with it, is neither.
fn split_steps(times: &[Instant], windows: &[(Instant, Instant)]) -> (Vec<Duration>, Vec<Duration>) {
    let steps: Vec<(Instant, Instant)> = times.windows(2).map(|pair| (pair[0], pair[1])).collect();
    let mut lengths: Vec<Duration> = steps.iter().map(|(start, end)| *end - *start).collect();
    lengths.sort_unstable();
    let Some(&usual) = lengths.get(lengths.len() / 2) else { return (Vec::new(), Vec::new()) };
    let (mut copying, mut quiet) = (Vec::new(), Vec::new());
    for (start, end) in steps {
        let window = windows.iter().find(|(submitted, arrived)| end > *submitted && start < *arrived + usual / 2);
        match window {
            None => quiet.push(end - start),
            Some((_, arrived)) if end + usual / 2 < *arrived => copying.push(end - start),
            Some(_) => {}
        }
    }
    (copying, quiet)
}

fn first_of(tokens: &[Vec<TokenId>]) -> Vec<Vec<TokenId>> {
    tokens.iter().map(|tokens| tokens[..1].to_vec()).collect()
}

fn percentiles(durations: &[Duration]) -> Value {
    report::percentiles_ms(&mut durations.to_vec())
}

/// Not a number if there are none.
fn median_ms(durations: &[Duration]) -> f64 {
    percentiles(durations)["p50"].as_f64().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_put_down_to_what_went_on() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        // A step every 10 ms, but for two of 12; a request from 35 to 70.5, whose own step is the one from 60 to 70.
        let times: Vec<Instant> = [0, 10, 20, 30, 42, 50, 60, 70, 80, 92].map(at).to_vec();
        let (copying, quiet) = split_steps(&times, &[(at(35), at(70))]);
        let ms = |steps: &[Duration]| steps.iter().map(Duration::as_millis).collect::<Vec<_>>();
        assert_eq!(ms(&copying), [12, 8, 10]);
        // The step from 70 to 80 was planned while the request was there.
        assert_eq!(ms(&quiet), [10, 10, 10, 12]);
        assert_eq!(split_steps(&times[..1], &[]), (vec![], vec![]));
    }
}
