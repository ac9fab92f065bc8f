//! The gRPC face of Pagewise: maps messages, streams, cancels, and says in status codes who can act.
//!
//! [`serve`] puts the `pagewise.v1.Inference` service before a [`Generator`](generation::Generator), with
//! `grpc.health.v1` and server reflection v1 (and v1alpha) beside it. What holds:
//!
//! - A stream that its client drops, or whose connection dies, cancels its request.
//! - The deadline of a call (`grpc-timeout`) is given to the engine, so the stream ends with the tokens so far, then a
//!   `Finished` message, then DEADLINE_EXCEEDED.
//! - A slow client holds up nobody: its tokens wait in its own stream, and reach it in fewer, larger messages.
//! - On shutdown nothing new is taken, what runs may finish within a time, and every stream gets its end.
//!
//! The crate knows neither tokens nor templates nor how requests are scheduled.
#![forbid(unsafe_code)]

mod deadline;
mod health;
mod messages;
mod responses;
mod server;
mod service;
mod status;

pub use server::{ServeError, ServeOptions, bind, serve};
