//! Cache events as values: what joined and left the prefix cache, for a router that follows many caches.
//!
//! A bounded log that its owner drains. Knows no transport and no clock.

use alloc::vec::Vec;

use crate::{BlockKey, TokenId};

/// A memory that holds contents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tier {
    /// The pool that tables are made of.
    Device,
    /// The [host tier](crate::KvCacheConfig::num_host_blocks).
    Host,
}

/// A change of the prefix cache. Replayed in order, events give the set of published blocks of each tier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheEvent<'a> {
    /// A full block can now be matched. Its parent, if it has one, was stored in the same tier before.
    Stored {
        /// Where it is.
        tier: Tier,
        /// The block's name.
        key: BlockKey,
        /// Name of the block before it; none for the first block of a sequence.
        parent: Option<BlockKey>,
        /// The block's tokens; their number is the block size.
        tokens: &'a [TokenId],
    },
    /// A block can no longer be matched in this tier. Nothing that was stored under it is left there.
    Removed {
        /// Where it was.
        tier: Tier,
        /// The block's name.
        key: BlockKey,
    },
    /// No block stored before can be matched any more, in any tier.
    Cleared,
    /// The log was full: this many events after those before this one are missing. Always the last event of a drain.
    Lost {
        /// Events that were not recorded.
        num_events: u64,
    },
}

#[derive(Clone, Copy)]
enum Record {
    Stored { tier: Tier, key: BlockKey, parent: Option<BlockKey> },
    Removed { tier: Tier, key: BlockKey },
    Cleared,
}

/// Up to `max_events` events since the last drain, and a count of those beyond.
pub(crate) struct EventLog {
    max_events: usize,
    records: Vec<Record>,
    /// Tokens of the stored blocks, in the order of `records`.
    tokens: Vec<TokenId>,
    num_lost: u64,
}

impl EventLog {
    /// A log that records nothing.
    pub(crate) fn off() -> Self {
        Self { max_events: 0, records: Vec::new(), tokens: Vec::new(), num_lost: 0 }
    }

    pub(crate) fn with_capacity(max_events: usize, block_size: u32) -> Self {
        Self {
            max_events,
            records: Vec::with_capacity(max_events),
            tokens: Vec::with_capacity(max_events * block_size as usize),
            num_lost: 0,
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.max_events > 0
    }

    pub(crate) fn stored(&mut self, tier: Tier, key: BlockKey, parent: Option<BlockKey>, tokens: &[TokenId]) {
        if self.push(Record::Stored { tier, key, parent }) {
            self.tokens.extend_from_slice(tokens);
        }
    }

    pub(crate) fn removed(&mut self, tier: Tier, key: BlockKey) {
        self.push(Record::Removed { tier, key });
    }

    pub(crate) fn cleared(&mut self) {
        self.push(Record::Cleared);
    }

    pub(crate) fn drain(&mut self, block_size: u32, mut sink: impl FnMut(CacheEvent<'_>)) {
        let mut blocks = self.tokens.chunks_exact(block_size as usize);
        for record in &self.records {
            sink(match *record {
                Record::Stored { tier, key, parent } => {
                    let tokens = blocks.next().expect("every stored block has its tokens in the log");
                    CacheEvent::Stored { tier, key, parent, tokens }
                }
                Record::Removed { tier, key } => CacheEvent::Removed { tier, key },
                Record::Cleared => CacheEvent::Cleared,
            });
        }
        if self.num_lost > 0 {
            sink(CacheEvent::Lost { num_events: self.num_lost });
        }
        self.records.clear();
        self.tokens.clear();
        self.num_lost = 0;
    }

    /// Whether the record was taken. Once one is lost, so are all until the next drain: a gap has one place.
    fn push(&mut self, record: Record) -> bool {
        let taken = self.records.len() < self.max_events;
        if taken {
            self.records.push(record);
        } else if self.max_events > 0 {
            self.num_lost += 1;
        }
        taken
    }
}
