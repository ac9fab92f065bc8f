//! What goes into the engine and what comes out, as values. Knows no channel.

use std::sync::Arc;

use kv_paging::PrefixKeys;
use serving_types::{BatchOutput, FinishReason, RequestClass, RequestId, SamplingParams, Timestamp, TokenId, Usage};

/// A request for tokens.
#[derive(Clone, Debug)]
pub struct EngineRequest {
    /// Unique for the life of the engine.
    pub id: RequestId,
    /// The prompt with its prefix keys, which whoever asks has hashed, with the engine's block size.
    pub prompt: PrefixKeys,
    /// Resolved and validated sampling parameters.
    pub sampling: Arc<SamplingParams>,
    /// Whose it is and how urgent.
    pub class: RequestClass,
    /// When the request ends if it has no output by then.
    pub first_token_deadline: Option<Timestamp>,
    /// When the request ends whatever it has.
    pub deadline: Option<Timestamp>,
}

/// Something asked of the engine.
#[derive(Clone, Debug)]
pub enum Command {
    /// Generate. Answered by events, `Finished` last.
    Submit(Box<EngineRequest>),
    /// End this request with `FinishReason::Cancelled`. Nothing happens if it has ended already.
    Cancel(RequestId),
    /// Forget all cached prefixes.
    ClearPrefixCache,
    /// Take no more requests; finish those that are here, and cancel what is left at this time.
    Drain {
        /// The time.
        cancel_at: Timestamp,
    },
}

/// Something that happened to one request.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// The log-probabilities of all prompt tokens but the first, in order. At most once, before the first token; only if
    /// asked for and if the prompt has two tokens or more.
    PromptLogprobs {
        /// The request.
        id: RequestId,
        /// One entry for each prompt token but the first.
        logprobs: Vec<TokenLogprobs>,
    },
    /// The next token of the output.
    Token {
        /// The request.
        id: RequestId,
        /// The token.
        token: TokenId,
        /// Its log-probability, if asked for.
        logprobs: Option<Box<TokenLogprobs>>,
    },
    /// The end. Exactly once, after everything else.
    Finished {
        /// The request.
        id: RequestId,
        /// Why.
        reason: FinishReason,
        /// Token counts.
        usage: Usage,
    },
}

impl Event {
    /// The request that it happened to.
    #[must_use]
    pub fn id(&self) -> RequestId {
        match self {
            Self::PromptLogprobs { id, .. } | Self::Token { id, .. } | Self::Finished { id, .. } => *id,
        }
    }
}

/// How likely the model thought a token, and what it thought likelier.
#[derive(Clone, PartialEq, Debug)]
pub struct TokenLogprobs {
    /// The sampled or given token.
    pub token: TokenId,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// 1 + the number of tokens that are more likely.
    pub rank: u32,
    /// The most likely tokens, as many as asked for, most likely first.
    pub top: Vec<(TokenId, f32)>,
}

impl TokenLogprobs {
    /// Copies one position out of a step's output, which the next step overwrites.
    pub(crate) fn from_output(output: &BatchOutput, position: u32) -> Self {
        let entry = &output.logprobs[position as usize];
        Self {
            token: entry.token,
            logprob: entry.logprob,
            rank: entry.rank,
            top: output.top[entry.top.start as usize..entry.top.end as usize].to_vec(),
        }
    }
}
