//! Text to tokens and back: vocabularies, chat templates, incremental decoding, stop strings.
//!
//! A [`Tokenizer`] comes from a GGUF file or a tokenizer.json; a [`ChatTemplate`] from either too, or from a
//! chat_template.jinja. Every vocabulary is reduced to one table of tokens and the *bytes* that each stands for, so
//! decoding is concatenation, and an [`IncrementalDecoder`] only has to wait for the end of a character. A [`StopMatcher`]
//! looks for stop strings in its output. Nothing in here knows of batches, requests or streaming transports.
//!
//! ```text
//! messages ─ ChatTemplate ─► prompt ─ Tokenizer::encode ─► ids ─► model ─► ids ─ IncrementalDecoder ─► text ─ StopMatcher ─► client
//! ```

mod byte_level;
mod calendar;
mod chat_template;
mod decode;
mod error;
mod gguf;
mod json;
mod pre_tokenizer;
mod python_json;
mod sentencepiece;
mod stop;
mod tokenizer;
mod vocabulary;

pub use chat_template::{ChatMessage, ChatTemplate, MAX_TEMPLATE_BYTES, MAX_TEMPLATE_FUEL, RenderOptions};
pub use decode::IncrementalDecoder;
pub use error::{TemplateError, TokenizerError};
pub use stop::{MAX_STOP_BYTES, MAX_STOP_STRINGS, StopMatcher, StopScan, StopStringsError};
pub use tokenizer::{MAX_TEXT_BYTES, SpecialText, SpecialTokens, Tokenizer};
