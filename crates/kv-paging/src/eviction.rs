//! The eviction queue: cached blocks by retention and last use. Says which goes next, in constant time.
//!
//! One intrusive list for each retention, and for [`Retention::High`] one for each power of two of time left, which make a
//! radix heap (Ahuja, Mehlhorn, Orlin and Tarjan, "Faster algorithms for the shortest path problem", 1990): bucket `b`
//! holds the blocks whose expiry differs from now first in bit `b`. When time moves on, only the buckets up to the highest bit
//! that changed are looked at, and each of their blocks expires or goes to a lower bucket. So a block is moved at most 64
//! times, and nobody ever sorts.
//!
//! Knows nothing of prefixes. That leaves go before parents is the [crate's](crate) argument, and needs two promises of this
//! queue: blocks of one list leave it in the order in which they came, and whatever moves them together keeps their order.

use crate::ids::Indexed;
use crate::list::{BlockList, Links};
use crate::{BlockId, LogicalTime, Retention};

/// A list of the queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Rank(u8);

impl Rank {
    pub(crate) const LOW: Self = Self(0);
    const NORMAL: Self = Self(1);

    fn of_bucket(bucket: u32) -> Self {
        Self(2 + bucket as u8)
    }

    fn at(self) -> usize {
        usize::from(self.0)
    }
}

const NUM_BUCKETS: u32 = u64::BITS;
const NUM_LISTS: usize = 2 + NUM_BUCKETS as usize;

pub(crate) struct EvictionQueue<I = BlockId> {
    now: LogicalTime,
    /// By rank; lower ranks go first.
    lists: [BlockList<I>; NUM_LISTS],
    /// Bit `b` tells whether bucket `b` has blocks.
    occupied: u64,
    len: u32,
}

impl<I: Indexed> EvictionQueue<I> {
    pub(crate) const EMPTY: Self =
        Self { now: LogicalTime(0), lists: [BlockList::EMPTY; NUM_LISTS], occupied: 0, len: 0 };

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// The block that goes next.
    #[inline]
    pub(crate) fn front(&self) -> Option<I> {
        let list = |rank: Rank| self.lists[rank.at()].front();
        list(Rank::LOW)
            .or_else(|| list(Rank::NORMAL))
            .or_else(|| (self.occupied != 0).then(|| list(Rank::of_bucket(self.occupied.trailing_zeros())))?)
    }

    /// The list that blocks of this retention wait in now.
    #[inline]
    pub(crate) fn rank(&self, retention: Retention) -> Rank {
        match retention {
            Retention::Low => Rank::LOW,
            Retention::Normal => Rank::NORMAL,
            Retention::High { until } if until <= self.now => Rank::NORMAL,
            Retention::High { until } => Rank::of_bucket((until.0 ^ self.now.0).ilog2()),
        }
    }

    #[inline]
    pub(crate) fn push_back(&mut self, links: &mut Links<I>, block: I, rank: Rank) {
        self.lists[rank.at()].push_back(links, block);
        self.len += 1;
        self.note(rank);
    }

    /// Puts a block right before one that is in this list already.
    pub(crate) fn insert_before(&mut self, links: &mut Links<I>, after: I, block: I, rank: Rank) {
        self.lists[rank.at()].insert_before(links, after, block);
        self.len += 1;
    }

    #[inline]
    pub(crate) fn remove(&mut self, links: &mut Links<I>, block: I, rank: Rank) {
        self.lists[rank.at()].remove(links, block);
        self.len -= 1;
        self.note(rank);
    }

    /// Moves on to `now`. The blocks of the lists that come back have to be pushed again, in this order.
    pub(crate) fn advance(&mut self, now: LogicalTime) -> impl Iterator<Item = BlockList<I>> + use<I> {
        assert!(now >= self.now, "time does not go back");
        // Below the highest bit that changes, every expiry is past; at it, blocks expire or go to a lower bucket; above
        // it, nothing changes.
        let num_buckets = (now.0 ^ self.now.0).checked_ilog2().map_or(0, |bit| bit + 1);
        self.now = now;
        let mut moved = [BlockList::EMPTY; NUM_BUCKETS as usize];
        for bucket in 0..num_buckets {
            let rank = Rank::of_bucket(bucket);
            let list = core::mem::replace(&mut self.lists[rank.at()], BlockList::EMPTY);
            self.len -= list.len();
            self.note(rank);
            moved[bucket as usize] = list;
        }
        moved.into_iter()
    }

    /// The lists, the one that goes first before the others, and their ranks. For checks.
    pub(crate) fn lists(&self) -> impl Iterator<Item = (Rank, &BlockList<I>)> {
        (0..).map(Rank).zip(&self.lists)
    }

    /// Whether the counts and bits are those of the lists. For checks.
    pub(crate) fn is_consistent(&self) -> bool {
        let len: u32 = self.lists.iter().map(BlockList::len).sum();
        let is_noted =
            |bucket: u32| (self.occupied >> bucket & 1 == 1) == (self.lists[Rank::of_bucket(bucket).at()].len() > 0);
        len == self.len && (0..NUM_BUCKETS).all(is_noted)
    }

    /// Brings the bit of a list up to date.
    fn note(&mut self, rank: Rank) {
        if rank > Rank::NORMAL {
            let bit = 1 << (rank.0 - Rank::of_bucket(0).0);
            let has_blocks = self.lists[rank.at()].len() > 0;
            self.occupied = if has_blocks { self.occupied | bit } else { self.occupied & !bit };
        }
    }
}
