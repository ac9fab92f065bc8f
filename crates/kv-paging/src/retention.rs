//! Retention: how much what a table held is worth after its release. Words only; what follows from them is in `eviction`.

use core::fmt;

/// A moment in the caller's own unit, for example seconds since its start. It stands still unless the caller moves it with
/// [`KvCache::advance`](crate::KvCache::advance).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LogicalTime(pub u64);

impl LogicalTime {
    /// Later than all others: what is kept until then is kept until memory is needed and nothing of less worth is left.
    pub const NEVER: Self = Self(u64::MAX);
}

impl fmt::Display for LogicalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// When the full blocks of a released table are evicted, compared with others. Ordered: what several tables ask for the
/// same blocks, the greatest of it holds.
///
/// It orders evictions and reserves nothing: blocks of any retention make way when nothing of less worth is left. What
/// must stay is [pinned](crate::KvCache::pin).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Retention {
    /// Before everything else: a prompt that will hardly come again.
    Low,
    /// In the order of last use.
    #[default]
    Normal,
    /// After everything else, until this time; from then on as if it were last used, as `Normal`, at that time. Among
    /// these, what expires soon goes before what expires much later.
    High {
        /// When it expires.
        until: LogicalTime,
    },
}
