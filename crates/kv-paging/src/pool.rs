//! The pool: every block's record, and the lists that blocks wait in while no table holds them.
//!
//! Moves blocks between states and knows what a state is. Why a block moves, and what its tokens are, it does not know.

use alloc::vec;
use alloc::vec::Vec;

use crate::eviction::{EvictionQueue, Rank};
use crate::index::NodeId;
use crate::list::{BlockList, Links};
use crate::{BlockId, LogicalTime, Retention, StepId};

/// Where a block is. Each is in exactly one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Holds nothing and waits to be taken.
    Free,
    /// Published, held by no table, and waits to be matched or evicted.
    Cached,
    /// Held by at least one table.
    Active,
    /// Held by no table, but a step in flight may still touch it.
    InTransit,
}

/// What may be read from a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Whatever its owner wrote; nobody matches it.
    Private,
    /// Full once the steps `[0, filled_end)` are retired. The same and later steps may read it.
    Promised,
    /// Full, never written again, and in the prefix index.
    Published,
    /// Was promised, and the promise failed. Its tables must go.
    Withdrawn,
}

/// One block's record.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    /// The steps that may touch the block are among `[0, busy_end)`. Of a cached block, all that were retired when it was
    /// last used.
    pub(crate) busy_end: u64,
    /// The steps that fill a promised or filled a published block are among `[0, filled_end)`.
    filled_end: u64,
    /// Live tables that hold the block.
    pub(crate) num_tables: u32,
    /// Its place in the prefix index.
    pub(crate) node: Option<NodeId>,
    pub(crate) place: Place,
    /// Of a cached block, the list that it waits in.
    pub(crate) rank: Rank,
    pub(crate) content: Content,
    /// What it holds was forgotten as faulty, so it is not indexed again. Private, or promised without a node.
    pub(crate) is_forgotten: bool,
    /// It waits to be copied to the host tier.
    pub(crate) is_to_offload: bool,
}

impl Block {
    const FREE: Self = Self {
        busy_end: 0,
        filled_end: 0,
        num_tables: 0,
        node: None,
        place: Place::Free,
        rank: Rank::LOW,
        content: Content::Private,
        is_forgotten: false,
        is_to_offload: false,
    };

    pub(crate) fn is_promised(&self) -> bool {
        self.content == Content::Promised
    }

    /// The block will be full once the steps `[0, filled_end)` are retired.
    pub(crate) fn promise(&mut self, filled_end: u64) {
        self.content = Content::Promised;
        self.filled_end = filled_end;
    }

    /// End of the steps that must be retired before the content may be read outside of steps.
    pub(crate) fn filled_end(&self) -> u64 {
        if self.is_promised() { self.filled_end } else { 0 }
    }
}

pub(crate) struct Pool {
    blocks: Vec<Block>,
    links: Links,
    /// A stack, so that a block that was just given back is taken first.
    pub(crate) free: Vec<BlockId>,
    /// Those of least worth first, and every block before the blocks of its prefix.
    pub(crate) cached: EvictionQueue,
    /// Ordered by `busy_end`.
    pub(crate) in_transit: BlockList,
    /// Active blocks.
    pub(crate) num_active: u32,
    /// Blocks whose content is withdrawn. Almost always zero, which makes asking for them free.
    pub(crate) num_withdrawn: u32,
    /// All steps in `[0, retired_end)` are retired.
    pub(crate) retired_end: u64,
}

impl Pool {
    pub(crate) fn new(num_blocks: u32) -> Self {
        Self {
            blocks: vec![Block::FREE; num_blocks as usize],
            links: Links::new(num_blocks),
            free: (0..num_blocks).rev().map(BlockId::from_index).collect(),
            cached: EvictionQueue::EMPTY,
            in_transit: BlockList::EMPTY,
            num_active: 0,
            num_withdrawn: 0,
            retired_end: 0,
        }
    }

    pub(crate) fn num_blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    pub(crate) fn get(&self, block: BlockId) -> &Block {
        &self.blocks[block.at()]
    }

    pub(crate) fn get_mut(&mut self, block: BlockId) -> &mut Block {
        &mut self.blocks[block.at()]
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// Whether the step has been retired.
    pub(crate) fn is_retired(&self, step: StepId) -> bool {
        step.end() <= self.retired_end
    }

    /// A free block for a new table.
    pub(crate) fn take_free(&mut self) -> Option<BlockId> {
        let block = self.free.pop()?;
        self.num_active += 1;
        let record = &mut self.blocks[block.at()];
        record.place = Place::Active;
        record.num_tables = 1;
        Some(block)
    }

    /// Forgets all about a block that was just removed from the cached ones, and gives it to a new table.
    pub(crate) fn take_removed(&mut self, block: BlockId) {
        self.num_active += 1;
        self.blocks[block.at()] = Block { place: Place::Active, num_tables: 1, ..Block::FREE };
    }

    /// One more table holds the block, which is not free. If it was cached, returns the steps since its last use.
    pub(crate) fn acquire(&mut self, block: BlockId) -> Option<u64> {
        let record = &mut self.blocks[block.at()];
        record.num_tables += 1;
        if record.num_tables > 1 {
            return None;
        }
        let left = core::mem::replace(&mut record.place, Place::Active);
        self.num_active += 1;
        match left {
            Place::Cached => {
                self.cached.remove(&mut self.links, block, record.rank);
                return Some(self.retired_end - record.busy_end);
            }
            Place::InTransit => self.in_transit.remove(&mut self.links, block),
            Place::Free | Place::Active => unreachable!("a block that no table holds and that is shared is waiting"),
        }
        None
    }

    /// Steps that were retired since a published block was filled.
    pub(crate) fn steps_since_full(&self, block: BlockId) -> u64 {
        self.retired_end - self.get(block).filled_end
    }

    /// One table fewer holds the block, and steps in `[0, busy_end)` may still touch it. Returns whether the block now
    /// needs a place: no table holds it and no step in flight names it.
    #[inline]
    pub(crate) fn let_go(&mut self, block: BlockId, busy_end: u64) -> bool {
        let record = &mut self.blocks[block.at()];
        assert!(record.num_tables > 0, "block {block} is let go by more tables than hold it");
        record.num_tables -= 1;
        record.busy_end = busy_end;
        if record.num_tables > 0 {
            return false;
        }
        self.num_active -= 1;
        if busy_end <= self.retired_end {
            return true;
        }
        record.place = Place::InTransit;
        self.insert_in_transit(block, busy_end);
        false
    }

    /// The next block that no table holds and whose last step is now retired. It needs a place.
    pub(crate) fn pop_arrived(&mut self) -> Option<BlockId> {
        let block = self.in_transit.front().filter(|block| self.get(*block).busy_end <= self.retired_end)?;
        self.in_transit.remove(&mut self.links, block);
        Some(block)
    }

    /// Gives the block the place of the most recently used cached one of this retention.
    #[inline]
    pub(crate) fn put_cached(&mut self, block: BlockId, retention: Retention) {
        let record = &mut self.blocks[block.at()];
        record.place = Place::Cached;
        record.busy_end = self.retired_end;
        record.rank = self.cached.rank(retention);
        self.cached.push_back(&mut self.links, block, record.rank);
    }

    /// Moves time on, and with it the cached blocks whose retention ends or comes nearer to its end.
    pub(crate) fn advance(&mut self, now: LogicalTime, retention_of: impl Fn(NodeId) -> Retention) {
        for list in self.cached.advance(now) {
            let mut next = list.front();
            while let Some(block) = next {
                next = list.next(&self.links, block);
                let node = self.get(block).node.expect("a cached block is in the index");
                let rank = self.cached.rank(retention_of(node));
                self.get_mut(block).rank = rank;
                self.cached.push_back(&mut self.links, block, rank);
            }
        }
    }

    /// Forgets all about the block and gives it a free place.
    pub(crate) fn put_free(&mut self, block: BlockId) {
        self.num_withdrawn -= u32::from(self.get(block).content == Content::Withdrawn);
        self.blocks[block.at()] = Block::FREE;
        self.free.push(block);
    }

    /// Takes a block out of the cached ones. It needs a place.
    pub(crate) fn remove_cached(&mut self, block: BlockId) {
        debug_assert_eq!(self.get(block).place, Place::Cached, "block {block} is cached");
        let rank = self.get(block).rank;
        self.cached.remove(&mut self.links, block, rank);
    }

    /// Behind the blocks with the same or an earlier end. Releases come nearly in step order, so the walk is short.
    fn insert_in_transit(&mut self, block: BlockId, busy_end: u64) {
        let mut before = self.in_transit.back();
        while let Some(other) = before.filter(|other| self.blocks[other.at()].busy_end > busy_end) {
            before = self.in_transit.prev(&self.links, other);
        }
        match before {
            Some(before) => self.in_transit.insert_after(&mut self.links, before, block),
            None => self.in_transit.push_front(&mut self.links, block),
        }
    }
}
