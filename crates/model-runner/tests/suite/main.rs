//! The runner: architectures against transformers, batches against themselves, and a real model against its reference, on
//! the CPU and, where there is one, on the GPU.

mod architectures;
mod batches;
mod checkpoints;
mod driver;
mod gpu;
mod smollm2;
mod tiny;
mod wild;
