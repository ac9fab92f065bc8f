//! Scenarios chosen by a seed. Which kinds of trouble a run has at all is chosen first (swarm testing; Groce et al., 2012),
//! so that some runs have much of one kind and none of another. Knows no engine.

use std::sync::Arc;
use std::time::Duration;

use engine::{EngineConfig, Policy, PrefixCaching, Salt};
use serving_types::{ExecutorLimits, SamplingParams, StepId, Timestamp, TokenId};

use crate::random::mix;
use crate::{FakeModel, Faults, Random, Scenario, SimRequest};

impl Scenario {
    /// The run of a seed.
    #[must_use]
    pub fn random(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let limits = random_limits(&mut random);
        let prefix_caching = if random.chance(800) { PrefixCaching::On } else { PrefixCaching::Off };
        // Not drawn, so that the seeds of past failures mean what they meant.
        let policy = [Policy::FirstCome, Policy::Priority, Policy::Fair][seed as usize % 3];
        let max_mixed_prefill_tokens = [u32::MAX, 1, 5, 16][seed as usize / 3 % 4];
        // Where too little is expected, running out of blocks is not foreseen.
        let expected_output_tokens = [1, EngineConfig::default().expected_output_tokens][seed as usize / 12 % 2];
        let config = EngineConfig {
            max_requests: 1000,
            prefix_caching,
            policy,
            max_mixed_prefill_tokens,
            expected_output_tokens,
        };
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
        let mut scenario = Self {
            model_seed: seed,
            limits,
            config,
            faults,
            token_time: Duration::ZERO,
            requests,
            clears: Vec::new(),
            drain,
        };
        scenario.add_trouble(&mut Random::new(mix(seed, 1)));
        scenario.add_hurry(&mut Random::new(mix(seed, 2)));
        scenario.add_host_pool(&mut Random::new(mix(seed, 3)));
        scenario
    }

    /// Further kinds of trouble, from random numbers of their own: what was drawn before stays what it was, and with it
    /// the seeds of past failures.
    fn add_trouble(&mut self, random: &mut Random) {
        if random.chance(300) {
            self.faults.slow_step = 100;
        }
        // A long run, most of which is the phase of liveness if there were faults.
        if random.chance(150) && self.drain.is_none() {
            let mut arrival = self.requests.iter().map(|request| request.arrival).max().unwrap_or_default();
            for _ in 0..random.pick(1..=8) {
                arrival = arrival.after(ms(random.pick(0..=200)));
                for request in random_requests(random, &self.limits, 60) {
                    let arrival = arrival.after(request.arrival.since(Timestamp(0)));
                    let request = if random.chance(500) { self.next_turn(random, request) } else { request };
                    self.requests.push(SimRequest { arrival, ..request });
                }
            }
        }
        self.faults.calm_from = Some(StepId(u64::from(random.pick(1..=150))));
        if random.chance(300) {
            for request in &mut self.requests {
                request.cancel_after_tokens = random.chance(300).then(|| random.pick(1..=20));
            }
        }
        // Tenants whose prompts are the same.
        if random.chance(200) {
            for request in &mut self.requests {
                request.salt = Salt::from_bytes([random.pick(0..=3) as u8; 32]);
            }
        }
        // Parallel samples of one prompt.
        if random.chance(200) {
            for index in 0..self.requests.len() {
                let num_samples = if random.chance(200) { random.pick(1..=4) } else { 0 };
                for sample_index in 1..=num_samples {
                    let first = &self.requests[index];
                    let sampling = SamplingParams { sample_index, temperature: 1.0, ..(*first.sampling).clone() };
                    let sample = SimRequest { sampling: Arc::new(sampling), ..first.clone() };
                    self.requests.push(sample);
                }
            }
        }
        if random.chance(100) {
            self.clears = (0..random.pick(1..=4)).map(|_| Timestamp(0).after(ms(random.pick(0..=100)))).collect();
        }
    }

    /// Some must have their first token by some time.
    fn add_hurry(&mut self, random: &mut Random) {
        if random.chance(300) {
            for request in &mut self.requests {
                request.first_token_timeout = random.chance(500).then(|| ms(random.pick(0..=100)));
            }
        }
    }

    /// A pool of blocks in host memory: none, a few, or more than the device has. Mostly it is quicker to copy than to compute.
    fn add_host_pool(&mut self, random: &mut Random) {
        if random.chance(400) {
            let most = if random.chance(500) { 8 } else { 3 * self.limits.num_blocks };
            self.limits.num_host_blocks = random.pick(1..=most);
            self.token_time = Duration::from_micros(u64::from(random.pick(0..=100)));
        }
    }

    /// The request as a later turn of an earlier one's conversation, or that one again: it comes back to what was computed
    /// long ago.
    fn next_turn(&self, random: &mut Random, request: SimRequest) -> SimRequest {
        let earlier = &self.requests[random.pick(0..=self.requests.len() as u32 - 1) as usize];
        let mut prompt = earlier.prompt.clone();
        if random.chance(700) {
            let model = FakeModel { seed: self.model_seed, vocab_size: self.limits.vocab_size };
            prompt.extend(model.complete(&prompt, &earlier.sampling, self.limits.max_model_len).tokens);
            prompt.extend(request.prompt.iter().take(random.pick(0..=4) as usize));
            prompt.truncate(self.limits.max_model_len as usize - 1);
        }
        SimRequest { prompt, salt: earlier.salt, ..request }
    }
}

fn random_limits(random: &mut Random) -> ExecutorLimits {
    let block_size = 1 << random.pick(0..=4);
    let num_blocks = if random.chance(500) { random.pick(4..=16) } else { random.pick(16..=128) };
    let max_model_len = random.pick(8..=160).min(block_size * num_blocks).max(2);
    ExecutorLimits {
        block_size,
        num_blocks,
        num_host_blocks: 0,
        max_batch_tokens: random.pick(1..=48),
        max_batch_rows: random.pick(1..=12),
        max_model_len,
        vocab_size: random.pick(8..=64),
        max_top_logprobs: 5,
        max_steps_in_flight: random.pick(1..=3),
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
