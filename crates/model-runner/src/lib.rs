//! Runs language models: implements [`Executor`](serving_types::Executor) over any [`Backend`](tensor_backend::Backend).
//!
//! The way of a model into memory: [`Checkpoint`] takes the tensors of a GGUF file, of safetensors shards, or of nothing
//! but a config (seeded random weights), and checks every name and shape against the config. [`plan_memory`] computes the
//! ledger from those shapes, and [`ModelRunner::load`] takes the memory.
//!
//! The way of a step: the `inputs` module turns a [`Batch`](serving_types::Batch) into one flat upload and asserts that
//! the batch is well formed; the `decoder` module enqueues the model's ops; logits are made in slices of bounded rows,
//! for sampled and scored positions alike; `finish` reads what was chosen.
//!
//! An architecture is one file under `models`: what its tensors are called, which optional parts it has, how GGUF files
//! store it. All of them share the one dense decoder.
//!
//! Knows no queues, policy, text, transport, or concrete backend.
#![forbid(unsafe_code)]

mod activations;
mod checkpoint;
mod decoder;
mod dummy;
mod error;
mod gap_log;
mod host_pool;
mod inputs;
mod loader;
mod memory;
mod models;
mod rope;
mod runner;
mod runner_config;
mod tensor_id;
mod warm_up;

pub use checkpoint::{Checkpoint, CheckpointTensor};
pub use error::ModelError;
pub use gap_log::GapLog;
pub use loader::LoadProgress;
pub use memory::{MemoryPlan, plan_memory};
pub use models::check_architecture;
pub use runner::ModelRunner;
pub use runner_config::{Recording, RunnerConfig, WarmUp};
