//! The limits a scheduler keeps, and which requests they rule out for good. Knows no request that was accepted.

use core::fmt;

use kv_paging::PrefixCaching;
use serving_types::{ExecutorLimits, SamplingParams};

use crate::{Policy, Refusal};

/// Longer than most answers, so that the first requests of an engine are not preempted.
pub const EXPECTED_OUTPUT_TOKENS: u32 = 1024;

/// Limits of a scheduler; constant over its life.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerConfig {
    /// Tokens a KV block holds; a power of two.
    pub block_size: u32,
    /// Blocks of the KV pool.
    pub num_blocks: u32,
    /// Blocks of the host's KV pool; 0 if there is none.
    pub num_host_blocks: u32,
    /// Most new tokens in a batch, over all rows.
    pub max_batch_tokens: u32,
    /// Of these, most tokens of prompts in a batch with rows that decode: bounds the gaps between the tokens of those. At
    /// least 1, so that prompts go on whatever decodes.
    pub max_mixed_prefill_tokens: u32,
    /// Tokens that an output is taken to become before any has ended; later it is what they became. So many requests run at a
    /// time as the pool is expected to hold until they end.
    pub expected_output_tokens: u32,
    /// Most rows in a batch, which is also the most requests that run at a time.
    pub max_batch_rows: u32,
    /// Longest context of a request, prompt and output together, in tokens.
    pub max_model_len: u32,
    /// A new request is refused while this many wait, preempted ones included.
    pub max_waiting: usize,
    /// Whether requests share the blocks of equal prefixes.
    pub prefix_caching: PrefixCaching,
    /// Who comes first when not all can.
    pub policy: Policy,
}

impl SchedulerConfig {
    /// Uses all that an executor offers, first come first served.
    #[must_use]
    pub fn from_limits(limits: &ExecutorLimits, max_waiting: usize, prefix_caching: PrefixCaching) -> Self {
        Self {
            block_size: limits.block_size,
            num_blocks: limits.num_blocks,
            num_host_blocks: limits.num_host_blocks,
            max_batch_tokens: limits.max_batch_tokens,
            max_mixed_prefill_tokens: limits.max_batch_tokens,
            expected_output_tokens: EXPECTED_OUTPUT_TOKENS,
            max_batch_rows: limits.max_batch_rows,
            max_model_len: limits.max_model_len,
            max_waiting,
            prefix_caching,
            policy: Policy::default(),
        }
    }

    /// Whether a request of this shape could ever run, alone on an idle engine. Depends on nothing that changes, so that
    /// it can be asked before the request is handed over.
    ///
    /// # Errors
    /// The refusal that [`Scheduler::submit`](crate::Scheduler::submit) would give.
    pub fn check(&self, num_prompt_tokens: u32, sampling: &SamplingParams) -> Result<(), Refusal> {
        if num_prompt_tokens == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        if sampling.max_tokens == 0 {
            return Err(Refusal::NoTokensWanted);
        }
        let max_tokens = self.max_model_len - 1;
        if num_prompt_tokens > max_tokens {
            return Err(Refusal::PromptTooLong { num_tokens: num_prompt_tokens, max_tokens });
        }
        let needed_blocks = self.max_blocks(num_prompt_tokens, sampling);
        if needed_blocks > self.num_blocks {
            return Err(Refusal::NeverFits { needed_blocks, num_blocks: self.num_blocks });
        }
        Ok(())
    }

    /// Length of the context at which a request ends for its length, in tokens.
    pub(crate) fn max_len(&self, num_prompt_tokens: u32, sampling: &SamplingParams) -> u32 {
        num_prompt_tokens.saturating_add(sampling.max_tokens).min(self.max_model_len)
    }

    /// Blocks that hold the KV of this many tokens.
    pub(crate) fn blocks_for(&self, num_tokens: u32) -> u32 {
        num_tokens.div_ceil(self.block_size)
    }

    /// Most blocks the request can come to hold. The last token is sampled and never attended to, so it needs no slot.
    fn max_blocks(&self, num_prompt_tokens: u32, sampling: &SamplingParams) -> u32 {
        self.blocks_for(self.max_len(num_prompt_tokens, sampling) - 1)
    }

    /// The first limit that allows no request at all.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        for (name, value, min) in [
            ("block_size", self.block_size, 1),
            ("num_blocks", self.num_blocks, 1),
            ("max_batch_tokens", self.max_batch_tokens, 1),
            ("max_mixed_prefill_tokens", self.max_mixed_prefill_tokens, 1),
            ("expected_output_tokens", self.expected_output_tokens, 1),
            ("max_batch_rows", self.max_batch_rows, 1),
            ("max_model_len", self.max_model_len, 2),
        ] {
            if value < min {
                return Err(ConfigError::TooSmall { name, value, min });
            }
        }
        Ok(())
    }
}

/// Limits under which nothing could run. For the operator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// A limit is below its least useful value.
    TooSmall {
        /// The limit.
        name: &'static str,
        /// What was given.
        value: u32,
        /// The least that is useful.
        min: u32,
    },
    /// The KV pool cannot be made.
    KvCache(kv_paging::ConfigError),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { name, value, min } => write!(f, "{name} is {value}; it must be at least {min}"),
            Self::KvCache(error) => write!(f, "the KV pool: {error}"),
        }
    }
}

impl core::error::Error for ConfigError {}
