//! Everything about one run, as data: limits, requests, faults. Also chosen at random from a seed. Knows no engine.

use std::sync::Arc;
use std::time::Duration;

use engine::{EngineConfig, PrefixCaching, Salt};
use serving_types::{ExecutorLimits, SamplingParams, StepId, Timestamp, TokenId};

use crate::{Faults, Random};

/// One run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Which model, and so which tokens.
    pub model_seed: u64,
    /// The executor's limits.
    pub limits: ExecutorLimits,
    /// The engine's own choices.
    pub config: EngineConfig,
    /// What goes wrong.
    pub faults: Faults,
    /// Who comes when.
    pub requests: Vec<SimRequest>,
    /// When a drain begins, and how long what is there may go on.
    pub drain: Option<(Timestamp, Duration)>,
}

/// One client.
#[derive(Clone, Debug)]
pub struct SimRequest {
    /// When it comes.
    pub arrival: Timestamp,
    /// Its tenant.
    pub salt: Salt,
    /// Its prompt.
    pub prompt: Vec<TokenId>,
    /// Its wishes.
    pub sampling: Arc<SamplingParams>,
    /// How long after its arrival it is ended.
    pub timeout: Option<Duration>,
    /// When it cancels.
    pub cancel_at: Option<Timestamp>,
}

impl SimRequest {
    /// A request that is there from the start and stays to its end.
    #[must_use]
    pub fn new(prompt: Vec<TokenId>, sampling: SamplingParams) -> Self {
        Self {
            arrival: Timestamp(0),
            salt: Salt::default(),
            prompt,
            sampling: Arc::new(sampling),
            timeout: None,
            cancel_at: None,
        }
    }
}

/// A small machine: 64 blocks of 4 tokens, 8 rows, 32 tokens a step, one step in flight.
#[must_use]
pub fn small_limits() -> ExecutorLimits {
    ExecutorLimits {
        block_size: 4,
        num_blocks: 64,
        max_batch_tokens: 32,
        max_batch_rows: 8,
        max_model_len: 200,
        vocab_size: 50,
        max_top_logprobs: 5,
        max_steps_in_flight: 1,
    }
}

impl Scenario {
    /// A run of these requests on these limits without faults.
    #[must_use]
    pub fn new(limits: ExecutorLimits, requests: Vec<SimRequest>) -> Self {
        Self {
            model_seed: 1,
            limits,
            config: EngineConfig::default(),
            faults: Faults::default(),
            requests,
            drain: None,
        }
    }

    /// A run chosen by a seed. Which kinds of trouble a run has at all is chosen first (swarm testing; Groce et al., 2012),
    /// so that some runs have much of one kind and none of another.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let block_size = 1 << random.pick(0..=4);
        let num_blocks = if random.chance(500) { random.pick(4..=16) } else { random.pick(16..=128) };
        let max_model_len = random.pick(8..=160).min(block_size * num_blocks).max(2);
        let limits = ExecutorLimits {
            block_size,
            num_blocks,
            max_batch_tokens: random.pick(1..=48),
            max_batch_rows: random.pick(1..=12),
            max_model_len,
            vocab_size: random.pick(8..=64),
            max_top_logprobs: 5,
            max_steps_in_flight: random.pick(1..=3),
        };
        let prefix_caching = if random.chance(800) { PrefixCaching::On } else { PrefixCaching::Off };
        let config = EngineConfig { max_requests: 1000, prefix_caching };
        let mut chance = |of_runs, per_mille| if random.chance(of_runs) { per_mille } else { 0 };
        let mut faults = Faults {
            seed,
            launch_failure: chance(200, 30),
            finish_failure: chance(200, 60),
            row_fault: chance(200, 20),
            ..Faults::default()
        };
        let (cancel, timeout, loss, drain) = (chance(400, 200), chance(300, 200), chance(50, 1000), chance(150, 1000));
        if loss > 0 {
            faults.device_loss = Some(StepId(u64::from(random.pick(0..=40))));
        }
        let span_ms = random.pick(0..=60);
        let mut requests = random_requests(&mut random, &limits, span_ms);
        for request in &mut requests {
            if random.chance(cancel) {
                request.cancel_at = Some(request.arrival.after(ms(random.pick(0..=40))));
            }
            if random.chance(timeout) {
                request.timeout = Some(ms(random.pick(0..=40)));
            }
        }
        let drain = (drain > 0).then(|| (Timestamp(0).after(ms(random.pick(0..=60))), ms(random.pick(0..=60))));
        Self { model_seed: seed, limits, config, faults, requests, drain }
    }
}

/// Requests of two tenants. Prompts share prefixes, and some come a step after another, so that they meet what that one
/// is just computing.
fn random_requests(random: &mut Random, limits: &ExecutorLimits, span_ms: u32) -> Vec<SimRequest> {
    let max_prompt = limits.max_model_len - 1;
    let families: Vec<Vec<TokenId>> = (0..random.pick(1..=3))
        .map(|_| (0..max_prompt).map(|_| random.pick(0..=limits.vocab_size - 1)).collect())
        .collect();
    let mut arrival = Timestamp(0);
    (0..random.pick(1..=24))
        .map(|_| {
            arrival = if random.chance(500) {
                arrival.after(ms(1))
            } else {
                Timestamp(0).after(ms(random.pick(0..=span_ms)))
            };
            let family = &families[random.pick(0..=families.len() as u32 - 1) as usize];
            let num_prompt_tokens = random.pick(1..=max_prompt);
            let num_shared =
                if random.chance(500) { num_prompt_tokens } else { random.pick(0..=num_prompt_tokens) } as usize;
            let mut prompt = family[..num_shared].to_vec();
            prompt.resize_with(num_prompt_tokens as usize, || random.pick(0..=limits.vocab_size - 1));
            let sampling = random_sampling(random, limits);
            SimRequest {
                arrival,
                salt: Salt::from_bytes([u8::from(random.chance(200)); 32]),
                ..SimRequest::new(prompt, sampling)
            }
        })
        .collect()
}

fn random_sampling(random: &mut Random, limits: &ExecutorLimits) -> SamplingParams {
    let mut stop_token_ids: Vec<TokenId> =
        (0..random.pick(0..=2)).map(|_| random.pick(0..=limits.vocab_size - 1)).collect();
    stop_token_ids.sort_unstable();
    stop_token_ids.dedup();
    SamplingParams {
        temperature: if random.chance(500) { 0.0 } else { 1.0 },
        repetition_penalty: if random.chance(700) { 1.0 } else { 1.2 },
        seed: random.bits(),
        max_tokens: random.pick(1..=60),
        min_tokens: random.pick(0..=4),
        stop_token_ids,
        logprobs: random.chance(200).then(|| random.pick(0..=3)),
        prompt_logprobs: random.chance(200).then(|| random.pick(0..=3)),
        ..SamplingParams::default()
    }
}

fn ms(milliseconds: u32) -> Duration {
    Duration::from_millis(u64::from(milliseconds))
}
