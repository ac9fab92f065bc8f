//! The host pool: every host block's record, which of them goes next, and which ones a copy under way still names.
//!
//! Moves host blocks between states. Why one moves, and what its tokens are, it does not know; nor that there is a device.

use alloc::vec;
use alloc::vec::Vec;

use crate::eviction::{EvictionQueue, Rank};
use crate::ids::Indexed;
use crate::index::NodeId;
use crate::list::{BlockList, Links};
use crate::{HostBlockId, LogicalTime, Retention, StepId};

/// One host block's record.
///
/// It holds a content while it has a node, and is in transit while a copy under way names it. It is free if neither.
#[derive(Clone, Copy)]
pub(crate) struct HostBlock {
    /// Its place in the prefix index.
    pub(crate) node: Option<NodeId>,
    /// The steps whose copies read or write the block are among `[0, busy_end)`.
    pub(crate) busy_end: u64,
    /// Whether the content is there, and not still on its way.
    pub(crate) is_filled: bool,
    /// If it holds a content, the list that it waits in.
    pub(crate) rank: Rank,
}

impl HostBlock {
    const FREE: Self = Self { node: None, busy_end: 0, is_filled: false, rank: Rank::LOW };
}

/// What a host block is to hold.
#[derive(Clone, Copy)]
pub(crate) struct NewContent {
    pub(crate) node: NodeId,
    pub(crate) retention: Retention,
    /// The host block of the node's parent.
    pub(crate) parent: Option<HostBlockId>,
}

pub(crate) struct HostPool {
    blocks: Vec<HostBlock>,
    links: Links<HostBlockId>,
    transit_links: Links<HostBlockId>,
    /// A stack.
    pub(crate) free: Vec<HostBlockId>,
    /// Blocks with a content, in transit or not: those of least worth first, and each before the blocks of its prefix.
    pub(crate) held: EvictionQueue<HostBlockId>,
    /// Ordered by `busy_end`.
    pub(crate) in_transit: BlockList<HostBlockId>,
    /// No copy is of a step after `[0, copied_end)`.
    copied_end: u64,
}

impl HostPool {
    pub(crate) fn new(num_blocks: u32) -> Self {
        Self {
            blocks: vec![HostBlock::FREE; num_blocks as usize],
            links: Links::new(num_blocks),
            transit_links: Links::new(num_blocks),
            free: (0..num_blocks).rev().map(HostBlockId::from_index).collect(),
            held: EvictionQueue::EMPTY,
            in_transit: BlockList::EMPTY,
            copied_end: 0,
        }
    }

    /// Whether there is a host tier.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        !self.blocks.is_empty()
    }

    pub(crate) fn num_blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    pub(crate) fn get(&self, block: HostBlockId) -> &HostBlock {
        &self.blocks[block.at()]
    }

    pub(crate) fn links(&self) -> &Links<HostBlockId> {
        &self.links
    }

    pub(crate) fn transit_links(&self) -> &Links<HostBlockId> {
        &self.transit_links
    }

    /// The held block that goes next, unless a copy under way names it.
    pub(crate) fn least(&self, retired_end: u64) -> Option<HostBlockId> {
        self.held.front().filter(|block| self.get(*block).busy_end <= retired_end)
    }

    /// The block gets a node's content by a copy of the step that ends at `busy_end`. It goes right before the block of the
    /// node's parent, or, if it is worth less or has none, as the one used last.
    pub(crate) fn fill(&mut self, block: HostBlockId, content: NewContent, busy_end: u64) {
        let NewContent { node, retention, parent } = content;
        let rank = self.rank(retention);
        self.blocks[block.at()] = HostBlock { node: Some(node), busy_end, is_filled: false, rank };
        match parent.filter(|parent| self.get(*parent).rank == rank) {
            Some(parent) => self.held.insert_before(&mut self.links, parent, block, rank),
            None => self.held.push_back(&mut self.links, block, rank),
        }
        self.enter_transit(block, busy_end);
    }

    /// A copy of the step that ends at `busy_end` reads the block, which no other copy under way names.
    pub(crate) fn read(&mut self, block: HostBlockId, busy_end: u64) {
        self.blocks[block.at()].busy_end = busy_end;
        self.enter_transit(block, busy_end);
    }

    /// Makes a held block the one used last of its retention.
    #[inline]
    pub(crate) fn touch(&mut self, block: HostBlockId, retention: Retention) {
        self.held.remove(&mut self.links, block, self.blocks[block.at()].rank);
        let rank = self.rank(retention);
        self.blocks[block.at()].rank = rank;
        self.held.push_back(&mut self.links, block, rank);
    }

    /// Forgets what a held block holds. It is free at once, or when the copy under way that names it is done.
    pub(crate) fn forget(&mut self, block: HostBlockId, retired_end: u64) {
        let record = &mut self.blocks[block.at()];
        self.held.remove(&mut self.links, block, record.rank);
        record.node = None;
        record.is_filled = false;
        if record.busy_end <= retired_end {
            self.free.push(block);
        }
    }

    /// The youngest copy under way that fills a block, behind `after` if it is given. For giving them up.
    pub(crate) fn prev_in_transit(&self, after: Option<HostBlockId>) -> Option<HostBlockId> {
        match after {
            Some(block) => self.in_transit.prev(&self.transit_links, block),
            None => self.in_transit.back(),
        }
    }

    /// The next block that just got its content, by a step that is now retired. Ends the copies of those steps.
    pub(crate) fn pop_filled(&mut self, retired_end: u64) -> Option<HostBlockId> {
        while let Some(block) = self.in_transit.front().filter(|block| self.get(*block).busy_end <= retired_end) {
            self.in_transit.remove(&mut self.transit_links, block);
            let record = &mut self.blocks[block.at()];
            if record.node.is_none() {
                self.free.push(block);
            } else if !core::mem::replace(&mut record.is_filled, true) {
                return Some(block);
            }
        }
        None
    }

    /// Moves time on, and with it the blocks whose retention ends or comes nearer to its end.
    pub(crate) fn advance(&mut self, now: LogicalTime, retention_of: impl Fn(NodeId) -> Retention) {
        for list in self.held.advance(now) {
            let mut next = list.front();
            while let Some(block) = next {
                next = list.next(&self.links, block);
                let node = self.get(block).node.expect("a held block is in the index");
                let rank = self.rank(retention_of(node));
                self.blocks[block.at()].rank = rank;
                self.held.push_back(&mut self.links, block, rank);
            }
        }
    }

    /// A content that nobody has asked to keep yet is one in use, so the host tier makes no difference below `Normal`.
    pub(crate) fn rank(&self, retention: Retention) -> Rank {
        self.held.rank(retention.max(Retention::Normal))
    }

    /// Panics if a step with copies was passed over.
    pub(crate) fn assert_in_order(&self, step: StepId) {
        if let Some(first) = self.in_transit.front() {
            assert!(self.get(first).busy_end >= step.end(), "a step with copies is retired before step {step}");
        }
    }

    fn enter_transit(&mut self, block: HostBlockId, busy_end: u64) {
        assert!(busy_end >= self.copied_end, "copies come in step order");
        self.copied_end = busy_end;
        self.in_transit.push_back(&mut self.transit_links, block);
    }
}
