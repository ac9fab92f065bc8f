//! Text, chat messages or token ids in; a stream of text events out: the in-process API.
//!
//! A [`Generator`] stands before an engine. It fills in and checks a request's parameters, makes the prompt's tokens on a
//! blocking thread, hands the engine one request for each answer, and turns the tokens that come back into text: UTF-8
//! safe, with stop strings found across token borders, and with the usage in each answer's last event. Servers of any
//! protocol, and programs that want no server at all, sit on top of it. It knows no protobuf, no HTTP and no device.
//!
//! ```text
//! GenerateRequest ─ resolve ─► SamplingParams ─┐
//!        └──────── PromptReader ─► PrefixKeys ─┴► Engine ─► Answer (decode, stop strings) ─► GenerationStream
//! ```
//!
//! ```no_run
//! # async fn example(generator: generation::Generator) -> Result<(), generation::GenerateError> {
//! use generation::{GenerateRequest, GenerationEvent, Input};
//!
//! let request = GenerateRequest::new(Input::Text("Once upon a time".into()));
//! let mut stream = generator.generate(request).await?;
//! while let Some(event) = stream.next().await {
//!     match event {
//!         GenerationEvent::Delta(delta) => print!("{}", delta.text),
//!         GenerationEvent::Finished(finished) => println!("\n{:?}, {:?}", finished.reason, finished.usage),
//!         GenerationEvent::PromptLogprobs(_) => {}
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What holds
//! - Every answer of an accepted request ends with exactly one [`Finished`]; a dropped stream cancels its request.
//! - The text of an answer's deltas is the text of its tokens, up to what ended it. Tokens after a stop string are
//!   neither given nor counted.
//! - The engine never waits for a slow caller.
//! - At most as many calls are under way as the engine accepts requests, those that wait for their prompt to be tokenized
//!   and those whose stream nobody reads included. More are [`GenerateError::Busy`].
#![forbid(unsafe_code)]

mod answer;
mod entropy;
mod error;
mod event;
mod generator;
mod prompt;
mod registry;
mod request;
mod resolve;
mod stream;

pub use engine::{DrainOutcome, EngineStats, Health, TokenLogprobs};
pub use error::GenerateError;
pub use event::{Delta, FinishReason, Finished, GenerationEvent};
pub use generator::{Generator, GeneratorParts, ModelInfo, TokenizeInput};
pub use request::{
    GenerateRequest, Input, MAX_ANSWERS, MAX_CACHE_SALT_BYTES, MAX_DETOKENIZE_TOKENS, MAX_REQUEST_ID_BYTES,
    SamplingOptions,
};
pub use resolve::{GenerationDefaults, MAX_LOGIT_BIASES, MAX_STOP_TOKEN_IDS};
pub use stream::GenerationStream;
pub use tokenization::{ChatMessage, SpecialText, SpecialTokens};
