//! Ids and logical time: tokens, blocks, steps. They know nothing of what they name.

use core::fmt;
use core::num::NonZeroU32;

/// Index into a model's vocabulary.
pub type TokenId = u32;

/// A physical block of the pool, `0..num_blocks`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BlockId(u32);

impl BlockId {
    /// The block at `index` of the pool.
    #[must_use]
    pub const fn from_index(index: u32) -> Self {
        Self(index)
    }

    /// The block's place in the pool, in blocks.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0
    }

    /// The place as an array index.
    pub(crate) const fn at(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A block of the host tier, `0..num_host_blocks`.
///
/// Kept as one more than its index, so that an optional id takes no more room than an id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostBlockId(NonZeroU32);

impl HostBlockId {
    /// The block at `index` of the host tier.
    #[must_use]
    pub const fn from_index(index: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index))
    }

    /// The block's place in the host tier, in blocks.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.0.get() - 1
    }
}

impl fmt::Debug for HostBlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostBlockId").field(&self.index()).finish()
    }
}

impl fmt::Display for HostBlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.index(), f)
    }
}

/// What lists of blocks need of an id.
pub(crate) trait Indexed: Copy + Eq + fmt::Debug {
    fn from_index(index: u32) -> Self;

    fn index(self) -> u32;

    fn at(self) -> usize {
        self.index() as usize
    }
}

impl Indexed for BlockId {
    fn from_index(index: u32) -> Self {
        Self::from_index(index)
    }

    fn index(self) -> u32 {
        self.index()
    }
}

impl Indexed for HostBlockId {
    fn from_index(index: u32) -> Self {
        Self::from_index(index)
    }

    fn index(self) -> u32 {
        self.index()
    }
}

/// One step of the caller's loop: a batch that was planned, runs, and is retired. The crate's only notion of time.
///
/// Steps are promised and retired in increasing order; numbers may be skipped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StepId(pub u64);

impl StepId {
    /// The end of the half-open range of steps `[0, step + 1)`.
    ///
    /// Inside the crate a moment is such an end: everything is retired in `[0, retired_end)`, and a block that is busy
    /// until `busy_end` may be taken once `busy_end <= retired_end`. Zero then means never, without an `Option`.
    pub(crate) const fn end(self) -> u64 {
        self.0.checked_add(1).expect("the last step number is never used")
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepOutcome {
    /// Everything that the step was to write is written.
    Completed,
    /// Nothing that the step was to write may be read.
    Failed,
}
