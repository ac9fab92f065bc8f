//! Ids and logical time. Newtypes, so that a block is never mistaken for a slot; they know nothing of what they name.

use core::fmt;
use core::time::Duration;

/// Index into the model's vocabulary.
///
/// The one id that is an alias: tokens live in bulk arrays which cross the tokenizer, protobuf and device buffers as
/// `u32`, and a wrapper would be converted element by element at each of those borders.
pub type TokenId = u32;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id!(
    /// One request of one client, unique for the life of an engine.
    RequestId(u64)
);
id!(
    /// A physical block of the KV pool, `0..num_blocks`.
    BlockId(u32)
);
id!(
    /// A block of the host's KV pool, `0..num_host_blocks`.
    HostBlockId(u32)
);
id!(
    /// A row of persistent executor state (block table, sampling state), `0..max_batch_rows`. A running request holds one.
    RowSlot(u32)
);
id!(
    /// A step of the engine; consecutive, in launch order.
    StepId(u64)
);
id!(
    /// A block copy that was asked for and may finish some steps later.
    CopyId(u64)
);

/// Whoever is to get a fair share among others: a customer, an application. The default stands for all who are not told apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TenantId(pub u64);

/// Nanoseconds since an origin that the driver of the engine chose. Logical time: nothing below the edge reads a clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The time `later` after this one, saturating.
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time `earlier` before this one, saturating.
    #[must_use]
    pub fn before(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(earlier.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this one; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}
