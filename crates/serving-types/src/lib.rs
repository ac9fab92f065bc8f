//! The shared vocabulary of Pagewise: ids, sampling parameters, the [`Batch`] that the decide column plans, the
//! [`BatchOutput`] that the compute column returns, and the [`Executor`] trait between them.
//!
//! Words only. Nothing here schedules, samples or computes; every other crate may depend on this one, and it depends on
//! none.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod batch;
mod class;
mod executor;
mod ids;
mod sampling;

pub use batch::{Batch, BlockCopy, HostCopy, OpenSlot, Row, RowInput, Score};
pub use class::RequestClass;
pub use executor::{
    BatchOutput, Executor, ExecutorError, ExecutorLimits, InFlight, MemoryEntry, PositionLogprobs, RowFault, RowOutput,
};
pub use ids::{BlockId, CopyId, HostBlockId, RequestId, RowSlot, StepId, TenantId, Timestamp, TokenId};
pub use sampling::{FinishReason, SamplingParams, Usage};
