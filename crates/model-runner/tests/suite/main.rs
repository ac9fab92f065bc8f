//! The runner on the CPU backend: architectures against transformers, batches against themselves, and a real model
//! against its reference.

mod architectures;
mod batches;
mod checkpoints;
mod driver;
mod smollm2;
mod tiny;
mod wild;
