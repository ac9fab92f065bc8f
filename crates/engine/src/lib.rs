//! Runs the step loop and owns every request's life.
//!
//! Two halves. [`EngineCore`] is sans-IO: one call of [`EngineCore::step`] takes the time and what was asked, does one
//! step's work on an [`Executor`](serving_types::Executor), and gives back what happened as values. It reads no clock,
//! starts no thread and waits for nobody but the executor, so whole runs replay exactly. [`Engine`] is the thin driver
//! around it: one named thread that owns the core, an inbox, and a stream of events for each request.
//!
//! ```text
//! Engine::submit ─► inbox ─► EngineCore::step(now, inbox, outbox) ─► outbox ─► RequestHandle::next
//!  (any thread)              plan ► launch ► finish ► complete                   (any thread)
//! ```
//!
//! # What holds
//! - Every accepted request gets its tokens in order, without gaps, and then exactly one [`Event::Finished`].
//! - The engine never waits for a client: a stream holds all events of its request.
//! - After a cancel is seen, the request's blocks are free within one step.
//! - A fault of one row ends that request only; whoever had matched what it computed is computed again. A failed step ends
//!   the requests that had rows in it; a lost device, or a panic, ends all of them with one cause, and [`Engine::health`]
//!   says so.
//!
//! Text, tokenizers, protocols and devices are for others.
#![forbid(unsafe_code)]

mod core;
mod driver;
mod event;
mod handle;
mod journal;
mod refusal;
mod stats;
mod stream;

pub use crate::core::{EngineConfig, EngineCore, Step};
pub use event::{Command, EngineRequest, Event, TokenLogprobs};
pub use handle::{DrainOutcome, Engine, Health, RequestHandle, SubmitError, SubmitRequest};
pub use journal::{JournalCommand, JournalEntry, JournalOutput};
pub use kv_paging::{MAX_BLOCK_SIZE, MAX_BLOCKS, PrefixCaching, PrefixKeys, Salt};
pub use refusal::Refusal;
pub use scheduler::{ConfigError, Policy};
pub use stats::EngineStats;
