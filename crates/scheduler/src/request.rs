//! One accepted request: its tokens, what is wanted of it, and the table of all of them. Where its computation stands is in
//! `running`. Knows no queue.

use core::fmt;
use core::ops::{Index, IndexMut};
use std::sync::Arc;

use kv_paging::PrefixKeys;
use serving_types::{Batch, RequestClass, RequestId, RowSlot, SamplingParams, Score, Timestamp, TokenId, Usage};

use crate::plan::push_range;

/// A request to schedule.
#[derive(Debug)]
pub struct NewRequest {
    /// Unique for the life of the scheduler.
    pub id: RequestId,
    /// The prompt with its prefix keys, of the pool's block size; at least one token.
    pub prompt: PrefixKeys,
    /// How tokens are chosen and when the request ends.
    pub sampling: Arc<SamplingParams>,
    /// Whose it is and how urgent.
    pub class: RequestClass,
    /// When it is ended if it has no output by then.
    pub first_token_deadline: Option<Timestamp>,
    /// When it is ended whatever it has.
    pub deadline: Option<Timestamp>,
}

/// Why a request was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The prompt holds no token. For the client.
    EmptyPrompt,
    /// `max_tokens` is zero. For the client.
    NoTokensWanted,
    /// The prompt leaves no room for output in the model's context. For the client.
    PromptTooLong {
        /// Tokens of the prompt.
        num_tokens: u32,
        /// Most that a prompt may hold.
        max_tokens: u32,
    },
    /// Prompt and output together need more KV blocks than there are. For the client (ask for less) or the operator.
    NeverFits {
        /// Blocks that the request may come to need.
        needed_blocks: u32,
        /// Blocks of the pool.
        num_blocks: u32,
    },
    /// Too many requests wait. Retry later.
    QueueFull {
        /// Most that may wait.
        max_waiting: usize,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyPrompt => f.write_str("the prompt is empty"),
            Self::NoTokensWanted => f.write_str("max_tokens is 0; it must be at least 1"),
            Self::PromptTooLong { num_tokens, max_tokens } => write!(
                f,
                "the prompt has {num_tokens} tokens; the model's context leaves room for at most {max_tokens} and one \
                 generated token"
            ),
            Self::NeverFits { needed_blocks, num_blocks } => write!(
                f,
                "prompt and max_tokens together may need {needed_blocks} KV blocks, and the pool has {num_blocks}: \
                 lower max_tokens or enlarge the pool"
            ),
            Self::QueueFull { max_waiting } => write!(f, "{max_waiting} requests are waiting already; retry later"),
        }
    }
}

impl core::error::Error for Refusal {}

/// An accepted request that has not ended.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: RequestId,
    /// Place in the order of arrival. Preemption does not change it.
    pub(crate) arrival: u64,
    pub(crate) sampling: Arc<SamplingParams>,
    /// What of its class counts under the policy.
    pub(crate) class: RequestClass,
    pub(crate) first_token_deadline: Option<Timestamp>,
    pub(crate) deadline: Option<Timestamp>,
    /// When its deadlines are to be looked at next.
    pub(crate) check_at: Option<Timestamp>,
    /// All tokens that are known, with their prefix keys: the prompt, then the output so far.
    pub(crate) keys: PrefixKeys,
    /// Length of the context at which the request ends.
    pub(crate) max_len: u32,
    /// Prompt positions whose score was delivered; they are never scored again.
    pub(crate) num_scored: u32,
    pub(crate) was_admitted: bool,
    /// It had a fault that may have come from what it matched, and matches nothing any more.
    pub(crate) computes_all: bool,
    pub(crate) usage: Usage,
    /// Its row slot while it runs; waiting without one.
    pub(crate) slot: Option<RowSlot>,
}

impl Request {
    pub(crate) fn tokens(&self) -> &[TokenId] {
        self.keys.tokens()
    }

    pub(crate) fn num_tokens(&self) -> u32 {
        self.keys.num_tokens()
    }

    pub(crate) fn num_prompt_tokens(&self) -> u32 {
        self.usage.prompt_tokens
    }

    /// Output at which the request ends for its length; at least 1.
    pub(crate) fn max_output_tokens(&self) -> u32 {
        self.max_len - self.num_prompt_tokens()
    }

    /// The positions of `start..end` that a row has to score, with the tokens that follow them in the batch. Not again
    /// those that were scored before a preemption.
    pub(crate) fn score(&self, start: u32, end: u32, batch: &mut Batch) -> Option<Score> {
        let (first, end) = (start.max(self.num_scored), end.min(self.num_to_score()));
        let num_top = self.sampling.prompt_logprobs?;
        (first < end).then(|| {
            let targets = push_range(&mut batch.tokens, &self.tokens()[first as usize + 1..=end as usize]);
            Score { first: first - start, targets, num_top }
        })
    }

    /// Prompt positions to score: each but the last, whose next token is not part of the prompt.
    pub(crate) fn num_to_score(&self) -> u32 {
        if self.sampling.prompt_logprobs.is_some() { self.num_prompt_tokens() - 1 } else { 0 }
    }

    /// Tokens to look up in the prefix cache, which never matches all of them. A position that is to be scored must be
    /// computed, so those beyond the first such position are held back.
    pub(crate) fn matchable_tokens(&self) -> &[TokenId] {
        if self.computes_all {
            &[]
        } else if self.num_scored < self.num_to_score() {
            &self.tokens()[..=self.num_scored as usize]
        } else {
            self.tokens()
        }
    }
}

/// Where a request is in the [`RequestSlab`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RequestIndex(u32);

/// All requests that have not ended, at places that do not move.
#[derive(Debug, Default)]
pub(crate) struct RequestSlab {
    places: Vec<Option<Request>>,
    vacant: Vec<RequestIndex>,
}

impl RequestSlab {
    pub(crate) fn insert(&mut self, request: Request) -> RequestIndex {
        match self.vacant.pop() {
            Some(index) => {
                self.places[index.0 as usize] = Some(request);
                index
            }
            None => {
                self.places.push(Some(request));
                RequestIndex(self.places.len() as u32 - 1)
            }
        }
    }

    pub(crate) fn remove(&mut self, index: RequestIndex) -> Request {
        let request = self.places[index.0 as usize].take().expect("the place is taken");
        self.vacant.push(index);
        request
    }
}

impl Index<RequestIndex> for RequestSlab {
    type Output = Request;

    fn index(&self, index: RequestIndex) -> &Request {
        self.places[index.0 as usize].as_ref().expect("the place is taken")
    }
}

impl IndexMut<RequestIndex> for RequestSlab {
    fn index_mut(&mut self, index: RequestIndex) -> &mut Request {
        self.places[index.0 as usize].as_mut().expect("the place is taken")
    }
}
