//! The prefix index: a tree of full blocks' contents, found through a flat hash table.
//!
//! A node is a content: a block's worth of tokens after a parent node's. Several blocks may hold it (requests that computed
//! the same thing side by side), and it lives as long as one does. Knows no tables, no steps, and no eviction order.

use alloc::vec;
use alloc::vec::Vec;

use crate::keys::BlockKey;
use crate::list::{BlockList, Links};
use crate::{BlockId, Salt, TokenId};

/// A node of the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeId(u32);

impl NodeId {
    fn at(self) -> usize {
        self.0 as usize
    }
}

/// What comes before a node's tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parent {
    /// Nothing: this is the first block of a sequence of the tenant with this salt.
    Salt(Salt),
    /// The contents of that node, and all before it.
    Node(NodeId),
}

pub(crate) struct Node {
    pub(crate) key: BlockKey,
    pub(crate) parent: Parent,
    /// Blocks that hold this content, published ones first, then promised ones in the order of their steps. Never empty.
    pub(crate) blocks: BlockList,
    pub(crate) num_published: u32,
    /// Nodes whose parent this is.
    pub(crate) num_children: u32,
    /// Whether its storing has been reported as an event.
    pub(crate) announced: bool,
    /// Whether it lost a block in the withdrawal that is going on.
    pub(crate) hit_by_failure: bool,
}

/// A place of the hash table.
#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    node: u32,
}

const VACANT: u32 = u32::MAX;

/// How a block left its node.
pub(crate) enum Detached {
    /// Other blocks still hold the content.
    NodeLives,
    /// It was the last, so the node is gone; here are its name and whether it was announced.
    NodeGone { key: BlockKey, announced: bool },
}

pub(crate) struct PrefixIndex {
    block_size: usize,
    /// Open addressing with linear probing and backward-shift deletion; a power of two, at most half full.
    slots: Vec<Slot>,
    /// As many as blocks: each node has at least one.
    nodes: Vec<Option<Node>>,
    /// Node `n` has the tokens at `n * block_size`.
    tokens: Vec<TokenId>,
    /// Unused nodes.
    vacant: Vec<NodeId>,
    /// Links of the nodes' block lists.
    links: Links,
    /// Blocks beyond the first of each node.
    num_duplicates: u32,
}

impl PrefixIndex {
    /// An index for up to `num_blocks` blocks; zero if nothing will ever be indexed.
    pub(crate) fn new(num_blocks: u32, block_size: u32) -> Self {
        let num_slots = (num_blocks as usize * 2).next_power_of_two();
        Self {
            block_size: block_size as usize,
            slots: vec![Slot { hash: 0, node: VACANT }; num_slots],
            nodes: (0..num_blocks).map(|_| None).collect(),
            tokens: vec![0; num_blocks as usize * block_size as usize],
            vacant: (0..num_blocks).rev().map(NodeId).collect(),
            links: Links::new(num_blocks),
            num_duplicates: 0,
        }
    }

    /// The node of `tokens` after `parent`. The key says where to look; parent and tokens decide.
    #[inline]
    pub(crate) fn find(&self, parent: &Parent, key: BlockKey, tokens: &[TokenId]) -> Option<NodeId> {
        let hash = key.low_bits();
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            if slot.node == VACANT {
                return None;
            }
            let node = NodeId(slot.node);
            if slot.hash == hash && self.node(node).parent == *parent && self.tokens(node) == tokens {
                return Some(node);
            }
            at = self.after(at);
        }
    }

    /// Makes the node of `tokens` after `parent`, which is not there yet, with its first block.
    pub(crate) fn insert(&mut self, parent: Parent, key: BlockKey, tokens: &[TokenId], block: BlockId) -> NodeId {
        let id = self.vacant.pop().expect("there are as many nodes as blocks");
        let mut blocks = BlockList::EMPTY;
        blocks.push_back(&mut self.links, block);
        self.nodes[id.at()] = Some(Node {
            key,
            parent,
            blocks,
            num_published: 0,
            num_children: 0,
            announced: false,
            hit_by_failure: false,
        });
        self.tokens[id.at() * self.block_size..][..self.block_size].copy_from_slice(tokens);
        if let Parent::Node(parent) = parent {
            self.node_mut(parent).num_children += 1;
        }
        let hash = key.low_bits();
        let mut at = self.home(hash);
        while self.slots[at].node != VACANT {
            at = self.after(at);
        }
        self.slots[at] = Slot { hash, node: id.0 };
        id
    }

    /// One more, promised, block holds the node's content.
    pub(crate) fn attach(&mut self, node: NodeId, block: BlockId) {
        self.num_duplicates += 1;
        let node = self.nodes[node.at()].as_mut().expect("a node in use");
        node.blocks.push_back(&mut self.links, block);
    }

    /// A promised block of the node is published and goes before those that are not.
    pub(crate) fn publish(&mut self, node: NodeId, block: BlockId) {
        let node = self.nodes[node.at()].as_mut().expect("a node in use");
        node.num_published += 1;
        node.blocks.remove(&mut self.links, block);
        node.blocks.push_front(&mut self.links, block);
    }

    /// A block of the node, published or not, no longer holds its content.
    pub(crate) fn detach(&mut self, id: NodeId, block: BlockId, was_published: bool) -> Detached {
        let node = self.nodes[id.at()].as_mut().expect("a node in use");
        node.blocks.remove(&mut self.links, block);
        node.num_published -= u32::from(was_published);
        if node.blocks.len() > 0 {
            self.num_duplicates -= 1;
            return Detached::NodeLives;
        }
        let Node { key, parent, announced, num_children, .. } = *node;
        assert_eq!(num_children, 0, "a block leaves the index before its parent does");
        self.vacate(id, key.low_bits());
        self.nodes[id.at()] = None;
        self.vacant.push(id);
        if let Parent::Node(parent) = parent {
            self.node_mut(parent).num_children -= 1;
        }
        Detached::NodeGone { key, announced }
    }

    pub(crate) fn node(&self, node: NodeId) -> &Node {
        self.nodes[node.at()].as_ref().expect("a node in use")
    }

    pub(crate) fn node_mut(&mut self, node: NodeId) -> &mut Node {
        self.nodes[node.at()].as_mut().expect("a node in use")
    }

    /// How many steps lead from `node` up to `root`; `None` if none do.
    pub(crate) fn depth_below(&self, root: NodeId, node: NodeId) -> Option<u32> {
        let parent = |node: &NodeId| match self.node(*node).parent {
            Parent::Node(parent) => Some(parent),
            Parent::Salt(_) => None,
        };
        let depth = core::iter::successors(Some(node), parent).position(|node| node == root)?;
        Some(depth as u32)
    }

    pub(crate) fn tokens(&self, node: NodeId) -> &[TokenId] {
        &self.tokens[node.at() * self.block_size..][..self.block_size]
    }

    /// The block to share for this content: published if one is, else the one that is filled first.
    pub(crate) fn first_block(&self, node: NodeId) -> BlockId {
        self.node(node).blocks.front().expect("a node has a block")
    }

    /// Forgets every node. The blocks that named one must forget it too.
    pub(crate) fn clear(&mut self) {
        self.slots.fill(Slot { hash: 0, node: VACANT });
        self.vacant.clear();
        for (index, node) in self.nodes.iter_mut().enumerate().rev() {
            *node = None;
            self.vacant.push(NodeId(index as u32));
        }
        self.num_duplicates = 0;
    }

    pub(crate) fn num_duplicates(&self) -> u32 {
        self.num_duplicates
    }

    /// Whether the node is in use. For checks.
    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.nodes[node.at()].is_some()
    }

    /// The nodes in use. Slow: for checks.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0..).map(NodeId).zip(&self.nodes).filter_map(|(id, node)| Some((id, node.as_ref()?)))
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// Occupied places of the hash table. Slow: for checks.
    pub(crate) fn num_occupied_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.node != VACANT).count()
    }

    /// Empties the slot of `id` and closes the gap: each later slot of the run that may move towards its home does.
    fn vacate(&mut self, id: NodeId, hash: u32) {
        let mut gap = self.home(hash);
        while self.slots[gap].node != id.0 {
            gap = self.after(gap);
        }
        let mask = self.slots.len() - 1;
        let mut at = gap;
        loop {
            at = self.after(at);
            let slot = self.slots[at];
            if slot.node == VACANT {
                break;
            }
            let from_home = at.wrapping_sub(self.home(slot.hash)) & mask;
            let from_gap = at.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.slots[gap] = slot;
                gap = at;
            }
        }
        self.slots[gap].node = VACANT;
    }

    fn home(&self, hash: u32) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::{Detached, Parent, PrefixIndex};
    use crate::{BlockId, PrefixKeys, Salt};

    /// Contents under one and the same key, as if the hash were broken: found by parent, salt and tokens alone.
    #[test]
    fn equal_keys_do_not_make_a_hit() {
        let mut keys = PrefixKeys::new(&Salt::default(), 2);
        keys.extend(&[1, 2]);
        let key = keys.block_keys()[0];
        let mut index = PrefixIndex::new(4, 2);
        let block = BlockId::from_index;
        let (ours, theirs) = (Parent::Salt(Salt::default()), Parent::Salt(Salt::from_bytes([7; 32])));

        let first = index.insert(ours, key, &[1, 2], block(0));
        let below = Parent::Node(first);
        for (parent, tokens) in [(ours, [1, 3]), (theirs, [1, 2]), (below, [1, 2])] {
            assert_eq!(index.find(&parent, key, &tokens), None, "{parent:?} {tokens:?}");
        }
        let second = index.insert(theirs, key, &[1, 2], block(1));
        let third = index.insert(below, key, &[1, 2], block(2));
        for (parent, node) in [(ours, first), (theirs, second), (below, third)] {
            assert_eq!(index.find(&parent, key, &[1, 2]), Some(node), "{parent:?}");
        }
        // Removal closes the gap in the run of equal hashes.
        assert!(matches!(index.detach(third, block(2), false), Detached::NodeGone { .. }));
        assert!(matches!(index.detach(first, block(0), false), Detached::NodeGone { .. }));
        assert_eq!(index.find(&theirs, key, &[1, 2]), Some(second));
        assert_eq!(index.num_occupied_slots(), 1);
    }
}
