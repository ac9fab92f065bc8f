//! Why a request was not taken, by who can act on it. What goes wrong after that is a finish reason of the answer.

use thiserror::Error;

/// A request that was not taken. Nothing of it is left behind.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum GenerateError {
    /// A parameter cannot be used. For the client; the message names the parameter, its value and its range.
    #[error("{field} {message}")]
    InvalidArgument {
        /// The parameter, as the wire calls it.
        field: &'static str,
        /// What is wrong with it, as the rest of a sentence that begins with its name.
        message: String,
    },
    /// The prompt leaves no room for an answer. For the client.
    #[error(
        "the prompt has {prompt_tokens} tokens; it may have at most {} because the context holds {max_model_len} tokens, \
         prompt and answer together",
        max_model_len - 1
    )]
    ContextTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Longest context, prompt and answer together, in tokens.
        max_model_len: u32,
    },
    /// As many requests are under way as can be held. The same request may be taken later.
    #[error("the server's queue is full; retry later")]
    Busy,
    /// The engine takes no more requests. Another server may.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The device is gone. For the operator.
    #[error("the device failed: {0}")]
    DeviceLost(String),
    /// A defect of the model's files or of this program. For the operator.
    #[error("internal error: {0}")]
    Internal(String),
}

impl GenerateError {
    pub(crate) fn invalid(field: &'static str, message: impl Into<String>) -> Self {
        Self::InvalidArgument { field, message: message.into() }
    }
}
