//! Everything about one run, as data: limits, requests, faults. Knows no engine and no chance.

use std::sync::Arc;
use std::time::Duration;

use engine::{EngineConfig, Salt};
use serving_types::{ExecutorLimits, SamplingParams, Timestamp, TokenId};

use crate::Faults;

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
    /// What each computed token adds to the virtual time of a step.
    pub token_time: Duration,
    /// Who comes when.
    pub requests: Vec<SimRequest>,
    /// When the prefix cache is cleared.
    pub clears: Vec<Timestamp>,
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
    /// How long after its arrival it is ended if it has no token by then.
    pub first_token_timeout: Option<Duration>,
    /// When it cancels.
    pub cancel_at: Option<Timestamp>,
    /// It also cancels once it has seen so many tokens, as a client does that has found a stop string.
    pub cancel_after_tokens: Option<u32>,
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
            first_token_timeout: None,
            cancel_at: None,
            cancel_after_tokens: None,
        }
    }
}

/// A small machine: 64 blocks of 4 tokens, 8 rows, 32 tokens a step, one step in flight.
#[must_use]
pub fn small_limits() -> ExecutorLimits {
    ExecutorLimits {
        block_size: 4,
        num_blocks: 64,
        num_host_blocks: 0,
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
            token_time: Duration::ZERO,
            requests,
            clears: Vec::new(),
            drain: None,
        }
    }
}
