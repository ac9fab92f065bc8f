//! Why the CPU backend refused something. Says what was asked; knows no models or requests.

use tensor_backend::Element;

use crate::Instructions;

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
    /// Activations are computed in f32 only.
    #[error("activations on the CPU are F32, not {0:?}")]
    ActivationElement(Element),
    /// The allocator refused.
    #[error("cannot allocate {bytes} bytes for {what}")]
    OutOfMemory {
        /// For what.
        what: &'static str,
        /// How much.
        bytes: u64,
    },
    /// Forced instructions that this machine lacks.
    #[error("this machine has no {0} instructions")]
    Instructions(Instructions),
}

/// A zeroed vector; the allocator's refusal is an error and not an abort. Its pages are taken as they are first written.
pub(crate) fn zeroed<T: Copy>(len: usize, zero: T, what: &'static str) -> Result<Vec<T>, CpuError> {
    if Vec::<T>::new().try_reserve_exact(len).is_err() {
        return Err(CpuError::OutOfMemory { what, bytes: (len as u64).saturating_mul(size_of::<T>() as u64) });
    }
    Ok(vec![zero; len])
}
