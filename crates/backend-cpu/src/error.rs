//! Why the CPU backend refused something. Says what was asked; knows no models or requests.

use tensor_backend::Element;

use crate::Instructions;
use crate::kv::MAX_HEAD_DIM;

/// Errors of [`CpuBackend`](crate::CpuBackend), all of them at construction or allocation: the ops themselves cannot fail.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The operating system gave no threads.
    #[error("cannot start {threads} compute threads: {cause}")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the operating system said.
        cause: String,
    },
    /// Buffers hold f32 only.
    #[error("buffers on the CPU are F32, not {0:?}")]
    BufferElement(Element),
    /// The allocator refused.
    #[error("cannot allocate {bytes} bytes for {what}")]
    OutOfMemory {
        /// For what.
        what: &'static str,
        /// How much.
        bytes: u64,
    },
    /// Wider than what attention has room for.
    #[error("attention on the CPU takes heads of at most {max} elements, not {0}", max = MAX_HEAD_DIM)]
    HeadDim(usize),
    /// Forced instructions that this machine lacks.
    #[error("this machine has no {0} instructions; it has {available}", available = names_of_available())]
    Instructions(Instructions),
}

fn names_of_available() -> String {
    let available = Instructions::ALL.into_iter().filter(|instructions| instructions.available());
    available.map(Instructions::name).collect::<Vec<_>>().join(", ")
}
