//! Deterministic simulator of the engine: fake executor, virtual time, seeded workloads, faults and checkers.
//!
//! For development only. A [`Scenario`] says everything about a run: limits, requests with their arrival times, cancels,
//! deadlines and faults. [`run`] plays it on a real [`EngineCore`](engine::EngineCore) over a [`FakeExecutor`] whose KV
//! memory remembers what each slot holds, and checks as it goes: every position that a row attends to holds that row's
//! own prefix, every request ends exactly once, tokens are those that the [`FakeModel`] gives the request alone, and in
//! the end no block is lost. The same scenario gives the same run, so a failure is its seed.
//!
//! Knows no wall clock, no thread and no real model.
#![forbid(unsafe_code)]

mod executor;
mod faults;
mod model;
mod random;
mod run;
mod scenario;
mod shadow;

pub use executor::FakeExecutor;
pub use faults::Faults;
pub use model::{Completion, FakeModel};
pub use random::Random;
pub use run::{Report, Transcript, run};
pub use scenario::{Scenario, SimRequest, small_limits};
