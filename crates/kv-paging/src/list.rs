//! Doubly linked lists of blocks in flat arrays: constant-time push and remove, no allocation after construction.
//!
//! A [`Links`] array gives every block one pair of links, so a block is in at most one of the lists that share it. Which
//! lists those are, and what membership means, is the owner's business.

use alloc::vec;
use alloc::vec::Vec;

use crate::BlockId;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
}

/// One pair of links for each block.
pub(crate) struct Links(Vec<Link>);

impl Links {
    pub(crate) fn new(num_blocks: u32) -> Self {
        Self(vec![Link { prev: NONE, next: NONE }; num_blocks as usize])
    }
}

/// One list over a [`Links`] array.
#[derive(Clone, Copy)]
pub(crate) struct BlockList {
    head: u32,
    tail: u32,
    len: u32,
}

impl BlockList {
    pub(crate) const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0 };

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn front(&self) -> Option<BlockId> {
        block(self.head)
    }

    pub(crate) fn back(&self) -> Option<BlockId> {
        block(self.tail)
    }

    pub(crate) fn push_front(&mut self, links: &mut Links, block: BlockId) {
        self.insert(links, block, NONE, self.head);
    }

    pub(crate) fn push_back(&mut self, links: &mut Links, block: BlockId) {
        self.insert(links, block, self.tail, NONE);
    }

    pub(crate) fn insert_after(&mut self, links: &mut Links, before: BlockId, block: BlockId) {
        self.insert(links, block, before.index(), links.0[before.at()].next);
    }

    #[inline]
    pub(crate) fn remove(&mut self, links: &mut Links, block: BlockId) {
        let Link { prev, next } = links.0[block.at()];
        if prev == NONE {
            debug_assert_eq!(self.head, block.index(), "a block leaves the list that it is in");
            self.head = next;
        } else {
            links.0[prev as usize].next = next;
        }
        if next == NONE {
            debug_assert_eq!(self.tail, block.index(), "a block leaves the list that it is in");
            self.tail = prev;
        } else {
            links.0[next as usize].prev = prev;
        }
        self.len -= 1;
    }

    /// The block behind `of`, which is in this list.
    pub(crate) fn next(&self, links: &Links, of: BlockId) -> Option<BlockId> {
        block(links.0[of.at()].next)
    }

    /// The block before `of`, which is in this list.
    pub(crate) fn prev(&self, links: &Links, of: BlockId) -> Option<BlockId> {
        block(links.0[of.at()].prev)
    }

    pub(crate) fn iter<'a>(&self, links: &'a Links) -> impl Iterator<Item = BlockId> + use<'a> {
        core::iter::successors(block(self.head), |at| block(links.0[at.at()].next))
    }

    fn insert(&mut self, links: &mut Links, block: BlockId, prev: u32, next: u32) {
        links.0[block.at()] = Link { prev, next };
        match prev {
            NONE => self.head = block.index(),
            prev => links.0[prev as usize].next = block.index(),
        }
        match next {
            NONE => self.tail = block.index(),
            next => links.0[next as usize].prev = block.index(),
        }
        self.len += 1;
    }
}

fn block(index: u32) -> Option<BlockId> {
    (index != NONE).then(|| BlockId::from_index(index))
}
