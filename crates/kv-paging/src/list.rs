//! Doubly linked lists of blocks in flat arrays: constant-time push and remove, no allocation after construction.
//!
//! A [`Links`] array gives every block of one tier one pair of links, so a block is in at most one of the lists that share
//! it. Which lists those are, and what membership means, is the owner's business.

use alloc::vec;
use alloc::vec::Vec;
use core::marker::PhantomData;

use crate::BlockId;
use crate::ids::Indexed;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    prev: u32,
    next: u32,
}

/// One pair of links for each block.
pub(crate) struct Links<I = BlockId>(Vec<Link>, PhantomData<I>);

impl<I> Links<I> {
    pub(crate) fn new(num_blocks: u32) -> Self {
        Self(vec![Link { prev: NONE, next: NONE }; num_blocks as usize], PhantomData)
    }
}

/// One list over a [`Links`] array.
#[derive(Clone, Copy)]
pub(crate) struct BlockList<I = BlockId> {
    head: u32,
    tail: u32,
    len: u32,
    ids: PhantomData<I>,
}

impl<I: Indexed> BlockList<I> {
    pub(crate) const EMPTY: Self = Self { head: NONE, tail: NONE, len: 0, ids: PhantomData };

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    pub(crate) fn front(&self) -> Option<I> {
        block(self.head)
    }

    pub(crate) fn back(&self) -> Option<I> {
        block(self.tail)
    }

    pub(crate) fn push_front(&mut self, links: &mut Links<I>, block: I) {
        self.insert(links, block, NONE, self.head);
    }

    pub(crate) fn push_back(&mut self, links: &mut Links<I>, block: I) {
        self.insert(links, block, self.tail, NONE);
    }

    pub(crate) fn insert_after(&mut self, links: &mut Links<I>, before: I, block: I) {
        self.insert(links, block, before.index(), links.0[before.at()].next);
    }

    pub(crate) fn insert_before(&mut self, links: &mut Links<I>, after: I, block: I) {
        self.insert(links, block, links.0[after.at()].prev, after.index());
    }

    #[inline]
    pub(crate) fn remove(&mut self, links: &mut Links<I>, block: I) {
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
    pub(crate) fn next(&self, links: &Links<I>, of: I) -> Option<I> {
        block(links.0[of.at()].next)
    }

    /// The block before `of`, which is in this list.
    pub(crate) fn prev(&self, links: &Links<I>, of: I) -> Option<I> {
        block(links.0[of.at()].prev)
    }

    pub(crate) fn iter<'a>(&self, links: &'a Links<I>) -> impl Iterator<Item = I> + use<'a, I> {
        core::iter::successors(block(self.head), |at: &I| block(links.0[at.at()].next))
    }

    fn insert(&mut self, links: &mut Links<I>, block: I, prev: u32, next: u32) {
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

fn block<I: Indexed>(index: u32) -> Option<I> {
    (index != NONE).then(|| I::from_index(index))
}
