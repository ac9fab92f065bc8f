//! What happened to requests, as values. Knows no channel and no client.

use core::ops::Range;

use serving_types::{FinishReason, RequestId, TokenId, Usage};

/// One thing that happened to one request. Those of a request come in order, `Finished` last and exactly once.
#[derive(Clone, PartialEq, Debug)]
pub enum Update {
    /// Prompt tokens were scored, the next ones in prompt order.
    PromptScored {
        /// The request.
        id: RequestId,
        /// Their entries in `BatchOutput::logprobs` of the step that was completed.
        logprobs: Range<u32>,
        /// Whether these were the last ones.
        is_last: bool,
    },
    /// A token was generated.
    Token {
        /// The request.
        id: RequestId,
        /// The token.
        token: TokenId,
        /// Its entry in `BatchOutput::logprobs` of the step that was completed, if the request asked for it.
        logprobs: Option<u32>,
    },
    /// The request ended and holds nothing any more.
    Finished {
        /// The request.
        id: RequestId,
        /// Why.
        reason: FinishReason,
        /// Its token counts.
        usage: Usage,
    },
}
