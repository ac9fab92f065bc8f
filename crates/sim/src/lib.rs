//! Deterministic simulator of the engine: fake executor, virtual time, seeded workloads, faults and checkers.
//!
//! For development only. A [`Scenario`] says everything about a run: limits, requests with their arrival times, cancels,
//! deadlines and faults. [`run`] plays it on a real [`EngineCore`](engine::EngineCore) over a [`FakeExecutor`] whose KV
//! memory remembers what each slot holds, and checks as it goes: every position that a row attends to holds that row's
//! own prefix, every request ends exactly once, tokens are those that the [`FakeModel`] gives the request alone, and in
//! the end no block is lost. The same scenario gives the same run, so a failure is its seed.
//!
//! A run has two phases. In the first whatever was chosen goes wrong, and only safety is checked. From
//! [`Faults::calm_from`] on nothing fails any more: whoever comes then must get every token, and the run must end within
//! a number of steps that is in proportion to what is left to compute.
//!
//! [`Scenario::random`] chooses a run by a seed, and [`shrink`] makes one that fails small. `cargo xtask sim` plays as many
//! as wanted.
//!
//! Knows no wall clock, no thread and no real model.
#![forbid(unsafe_code)]

mod copies;
mod executor;
mod faults;
mod fragmentation;
mod model;
mod overload;
pub mod plot;
mod random;
mod replay;
mod run;
mod scenario;
mod shadow;
mod shrink;
mod step_cost;
mod swarm;
mod workload;

pub use executor::FakeExecutor;
pub use faults::Faults;
pub use fragmentation::{FragmentationFigures, NUM_POOL_SLOTS, Scheme, simulate_memory};
pub use model::{Completion, FakeModel};
pub use overload::{LONG_PROMPT, MAX_MEAN_ITL, MAX_TTFT, OverloadFigures, capacity, simulate_load};
pub use random::Random;
pub use replay::{Replayed, replay};
pub use run::{Report, Transcript, run, run_with_journal};
pub use scenario::{Scenario, SimRequest, small_limits};
pub use shrink::shrink;
pub use step_cost::StepCost;
pub use workload::{ChatRequest, MAX_CHAT_TOKENS, chat_mix};
