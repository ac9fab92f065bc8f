//! What can go wrong between text and tokens, in words that say what to do about it.

use model_format::FormatError;
use serving_types::TokenId;

/// An error of loading or using a [`Tokenizer`](crate::Tokenizer). All but the last three speak of a model file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// A metadata value has the wrong type.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The model file lacks a key that its kind of vocabulary needs.
    #[error("the model file has no `{key}`; convert the model again with a current converter")]
    Missing {
        /// The metadata key.
        key: &'static str,
    },
    /// A part of the vocabulary contradicts itself or another part.
    #[error("the vocabulary is corrupt: {what}")]
    Corrupt {
        /// What is wrong, and where.
        what: String,
    },
    /// The vocabulary asks for something that this crate does not do.
    #[error("the tokenizer asks for {what} `{name}`, which is not supported; supported: {supported}")]
    Unsupported {
        /// The kind of thing, for instance "the pre-tokenizer".
        what: &'static str,
        /// The name in the file.
        name: String,
        /// The names that are supported.
        supported: String,
    },
    /// A token id outside of the vocabulary.
    #[error("token id {id} is not in the vocabulary of {vocab_size} tokens")]
    UnknownToken {
        /// The id.
        id: TokenId,
        /// One more than the largest id.
        vocab_size: u32,
    },
    /// The text is longer than any context window can hold.
    #[error("the text has {bytes} bytes; at most {max_bytes} can be tokenized at once")]
    TextTooLong {
        /// Its length.
        bytes: usize,
        /// The limit, [`MAX_TEXT_BYTES`](crate::MAX_TEXT_BYTES).
        max_bytes: usize,
    },
    /// The tokenizer's own pipeline (normaliser, pre-tokenizer, model) failed on this text.
    #[error("the tokenizer failed: {what}")]
    Pipeline {
        /// Its message.
        what: String,
    },
}

/// An error of loading or rendering a [`ChatTemplate`](crate::ChatTemplate).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template, or the file that should contain it, cannot be read as one.
    #[error("the chat template is not valid: {what}")]
    Invalid {
        /// What is wrong, with the line where that is known.
        what: String,
    },
    /// The template refused the conversation by `raise_exception`; the message is for whoever sent it.
    #[error("the chat template refused the messages: {message}")]
    Refused {
        /// The template's own words.
        message: String,
    },
    /// The template ran too long or wrote too much.
    #[error(
        "the chat template did not finish within {max_fuel} steps; it may loop without end, or the messages are too long"
    )]
    OutOfFuel {
        /// The limit, [`MAX_TEMPLATE_FUEL`](crate::MAX_TEMPLATE_FUEL).
        max_fuel: u64,
    },
    /// The template failed on these messages.
    #[error("the chat template failed: {what}")]
    Failed {
        /// What went wrong, with the template's line.
        what: String,
    },
}
