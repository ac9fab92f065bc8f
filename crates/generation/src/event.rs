//! What comes of a request: the events of a [`GenerationStream`](crate::GenerationStream). Values only.

use engine::TokenLogprobs;
use serving_types::{TokenId, Usage};

/// One event of a request. For each of its answers: deltas, then exactly one `Finished`.
#[derive(Clone, PartialEq, Debug)]
pub enum GenerationEvent {
    /// How likely the prompt is: an entry for each token but the first. Once, before the first delta of answer 0, if asked
    /// for.
    PromptLogprobs(Vec<TokenLogprobs>),
    /// New tokens of an answer.
    Delta(Delta),
    /// An answer is complete.
    Finished(Finished),
}

/// New tokens of one answer and the text that has become certain with them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Delta {
    /// Which answer, `0..n`.
    pub index: u32,
    /// May be empty: a token may end inside a character, or inside what could become a stop string. May be without
    /// tokens: text held back becomes certain when the answer ends.
    pub text: String,
    /// In order; a stop token included. More than one if the caller is slower than the model.
    pub token_ids: Vec<TokenId>,
    /// One for each of `token_ids` if asked for, else empty.
    pub logprobs: Vec<TokenLogprobs>,
}

/// The end of one answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    /// Which answer, `0..n`.
    pub index: u32,
    /// Why it ended.
    pub reason: FinishReason,
    /// Its token counts. After a stop string, `output_tokens` counts up to the token that completed it.
    pub usage: Usage,
}

/// Why an answer ended: the engine's reasons, and stop strings, of which the engine knows nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FinishReason {
    /// The text came to hold this stop string.
    StopString(String),
    /// The model produced this stop token: one of the request's, or an end of sequence.
    StopToken(TokenId),
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// It was aborted, or the server shut down.
    Cancelled,
    /// Its timeout passed.
    Deadline,
    /// It failed. Says what happened.
    Failed(String),
}

impl From<serving_types::FinishReason> for FinishReason {
    fn from(reason: serving_types::FinishReason) -> Self {
        use serving_types::FinishReason as Engine;
        match reason {
            Engine::StopToken(token) => Self::StopToken(token),
            Engine::Length => Self::Length,
            Engine::Cancelled => Self::Cancelled,
            Engine::Deadline => Self::Deadline,
            Engine::Failed(cause) => Self::Failed(cause),
        }
    }
}
