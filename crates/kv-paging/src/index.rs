//! The prefix index: a tree of full blocks' contents, found through a flat hash table.
//!
//! A node is a content: a block's worth of tokens after a parent node's. Several blocks may hold it (requests that computed
//! the same thing side by side), and one of the host tier. It lives as long as one does. Knows no tables, no steps, and no
//! eviction order.

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU32;

use crate::keys::BlockKey;
use crate::list::{BlockList, Links};
use crate::{BlockId, HostBlockId, Retention, Salt, TokenId};

/// A node of the tree.
///
/// One more than its place in the arrays, so that an optional id takes no more room than an id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NodeId(NonZeroU32);

impl NodeId {
    fn from_index(index: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index))
    }

    fn at(self) -> usize {
        (self.0.get() - 1) as usize
    }
}

/// What comes before a node's tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Parent<'a> {
    /// Nothing: this is the first block of a sequence of the tenant with this salt.
    Salt(&'a Salt),
    /// The contents of that node, and all before it.
    Node(NodeId),
}

/// A content, in one cache line; its tokens and, if it has no parent, its salt are in arrays of their own.
#[derive(Clone)]
#[repr(align(64))]
pub(crate) struct Node {
    pub(crate) key: BlockKey,
    /// The node before; none for the first block of a sequence.
    pub(crate) parent: Option<NodeId>,
    /// Blocks that hold this content, published ones first, then promised ones in the order of their steps. Empty while
    /// only the host tier holds it, and while the node is not in use.
    pub(crate) blocks: BlockList,
    /// The block of the host tier that holds this content or will.
    pub(crate) host: Option<HostBlockId>,
    pub(crate) num_published: u32,
    /// Nodes whose parent this is.
    pub(crate) num_children: u32,
    /// The greatest that tables holding it asked for when they were released; `Low` before.
    pub(crate) retention: Retention,
    /// Whether its storing has been reported as an event.
    pub(crate) announced: bool,
    /// Whether it lost a block in the withdrawal that is going on.
    pub(crate) hit_by_failure: bool,
}

const _: () = assert!(size_of::<Node>() == 64, "a node is one cache line");

impl Node {
    fn is_used(&self) -> bool {
        self.blocks.len() > 0 || self.host.is_some()
    }
}

const UNUSED: Node = Node {
    key: BlockKey::ZERO,
    parent: None,
    blocks: BlockList::EMPTY,
    host: None,
    num_published: 0,
    num_children: 0,
    retention: Retention::Low,
    announced: false,
    hit_by_failure: false,
};

/// A place of the hash table.
#[derive(Clone, Copy)]
struct Slot {
    hash: u32,
    node: Option<NodeId>,
}

const VACANT: Slot = Slot { hash: 0, node: None };

/// The place of the hash table where a look-up of this key ended without a node; one inserted there will be found.
pub(crate) struct Vacancy {
    at: usize,
    key: BlockKey,
}

/// How a block left its node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Detached {
    /// Other blocks still hold the content.
    NotLast,
    /// It was the last one; whether it was announced.
    Last { announced: bool },
}

pub(crate) struct PrefixIndex {
    block_size: usize,
    /// Open addressing with linear probing and backward-shift deletion; a power of two, at most half full.
    slots: Vec<Slot>,
    /// As many as blocks of both tiers: each node in use has at least one.
    nodes: Vec<Node>,
    /// Node `n` has the tokens at `n * block_size`.
    tokens: Vec<TokenId>,
    /// Salts of the nodes without a parent; of others, nothing.
    salts: Vec<Salt>,
    /// Unused nodes.
    vacant: Vec<NodeId>,
    /// Links of the nodes' block lists.
    links: Links,
    /// Blocks beyond the first of each node.
    num_duplicates: u32,
}

impl PrefixIndex {
    /// An index for up to so many blocks; zero if nothing will ever be indexed.
    pub(crate) fn new(num_blocks: u32, num_host_blocks: u32, block_size: u32) -> Self {
        let num_nodes = num_blocks + num_host_blocks;
        let num_slots = (num_nodes as usize * 4).next_power_of_two();
        Self {
            block_size: block_size as usize,
            slots: vec![VACANT; num_slots],
            nodes: vec![UNUSED; num_nodes as usize],
            tokens: vec![0; num_nodes as usize * block_size as usize],
            salts: vec![Salt::default(); num_nodes as usize],
            vacant: (0..num_nodes).rev().map(NodeId::from_index).collect(),
            links: Links::new(num_blocks),
            num_duplicates: 0,
        }
    }

    /// The node of `tokens` after `parent`.
    pub(crate) fn find(&self, parent: Parent<'_>, key: BlockKey, tokens: &[TokenId]) -> Option<NodeId> {
        self.look_up(parent, key, tokens).ok()
    }

    /// The node of `tokens` after `parent`, or where it would be. The key says where to look; parent and tokens decide.
    #[inline]
    pub(crate) fn look_up(&self, parent: Parent<'_>, key: BlockKey, tokens: &[TokenId]) -> Result<NodeId, Vacancy> {
        let hash = key.low_bits();
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            let Some(node) = slot.node else { return Err(Vacancy { at, key }) };
            if slot.hash == hash && self.is_after(node, parent) && self.tokens(node) == tokens {
                return Ok(node);
            }
            at = self.after(at);
        }
    }

    /// Reads where a look-up of the key begins, and lets the processor go on before it is there.
    #[inline]
    pub(crate) fn prefetch(&self, key: BlockKey) {
        core::hint::black_box(self.slots[self.home(key.low_bits())].hash);
    }

    /// Makes the node of `tokens` after `parent`, whose look-up just ended in `vacancy`, with its first block.
    #[inline]
    pub(crate) fn insert(
        &mut self,
        Vacancy { at, key }: Vacancy,
        parent: Parent<'_>,
        tokens: &[TokenId],
        block: BlockId,
    ) -> NodeId {
        let id = self.vacant.pop().expect("there are as many nodes as blocks");
        let node = &mut self.nodes[id.at()];
        node.key = key;
        node.blocks.push_back(&mut self.links, block);
        self.tokens[id.at() * self.block_size..][..self.block_size].copy_from_slice(tokens);
        match parent {
            Parent::Salt(salt) => self.salts[id.at()] = *salt,
            Parent::Node(parent) => {
                node.parent = Some(parent);
                self.node_mut(parent).num_children += 1;
            }
        }
        self.slots[at] = Slot { hash: key.low_bits(), node: Some(id) };
        id
    }

    /// One more, promised, block holds the node's content. Returns whether another one did before.
    pub(crate) fn attach(&mut self, node: NodeId, block: BlockId) -> bool {
        let blocks = &mut self.nodes[node.at()].blocks;
        let is_duplicate = blocks.len() > 0;
        self.num_duplicates += u32::from(is_duplicate);
        blocks.push_back(&mut self.links, block);
        is_duplicate
    }

    /// A promised block of the node is published and goes before those that are not.
    #[inline]
    pub(crate) fn publish(&mut self, node: NodeId, block: BlockId) {
        let node = &mut self.nodes[node.at()];
        node.num_published += 1;
        if node.blocks.front() != Some(block) {
            node.blocks.remove(&mut self.links, block);
            node.blocks.push_front(&mut self.links, block);
        }
    }

    /// A block of the node, published or not, no longer holds its content. If it was the last one, the node has to be
    /// [removed](Self::remove), unless the host tier holds the content.
    #[inline]
    pub(crate) fn detach(&mut self, id: NodeId, block: BlockId, was_published: bool) -> Detached {
        let node = &mut self.nodes[id.at()];
        node.blocks.remove(&mut self.links, block);
        node.num_published -= u32::from(was_published);
        if node.blocks.len() > 0 {
            self.num_duplicates -= 1;
            return Detached::NotLast;
        }
        Detached::Last { announced: core::mem::replace(&mut node.announced, false) }
    }

    /// Removes a node that no block holds any more.
    #[inline]
    pub(crate) fn remove(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.at()];
        debug_assert!(!node.is_used(), "a node lives as long as a block holds its content");
        assert_eq!(node.num_children, 0, "a content leaves the index before its parent does");
        node.retention = Retention::Low;
        let hash = node.key.low_bits();
        if let Some(parent) = node.parent.take() {
            self.node_mut(parent).num_children -= 1;
        }
        self.vacate(id, hash);
        self.vacant.push(id);
    }

    pub(crate) fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.at()]
    }

    pub(crate) fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[node.at()]
    }

    /// What comes before the node's tokens.
    pub(crate) fn parent(&self, node: NodeId) -> Parent<'_> {
        self.node(node).parent.map_or(Parent::Salt(&self.salts[node.at()]), Parent::Node)
    }

    /// How many steps lead from `node` up to `root`; `None` if none do.
    pub(crate) fn depth_below(&self, root: NodeId, node: NodeId) -> Option<u32> {
        let parent = |node: &NodeId| self.node(*node).parent;
        let depth = core::iter::successors(Some(node), parent).position(|node| node == root)?;
        Some(depth as u32)
    }

    pub(crate) fn tokens(&self, node: NodeId) -> &[TokenId] {
        &self.tokens[node.at() * self.block_size..][..self.block_size]
    }

    /// The block to share for this content: published if one is, else the one that is filled first. None if only the host
    /// tier holds it.
    pub(crate) fn first_block(&self, node: NodeId) -> Option<BlockId> {
        self.node(node).blocks.front()
    }

    /// Forgets every node. The blocks that named one must forget it too.
    pub(crate) fn clear(&mut self) {
        self.slots.fill(VACANT);
        self.nodes.fill(UNUSED);
        self.vacant.clear();
        self.vacant.extend((0..self.nodes.len() as u32).rev().map(NodeId::from_index));
        self.num_duplicates = 0;
    }

    pub(crate) fn num_duplicates(&self) -> u32 {
        self.num_duplicates
    }

    /// Whether the node is in use. For checks.
    pub(crate) fn contains(&self, node: NodeId) -> bool {
        self.node(node).is_used()
    }

    /// The nodes in use. Slow: for checks.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        (0..).map(NodeId::from_index).zip(&self.nodes).filter(|(_, node)| node.is_used())
    }

    pub(crate) fn links(&self) -> &Links {
        &self.links
    }

    /// Occupied places of the hash table. Slow: for checks.
    pub(crate) fn num_occupied_slots(&self) -> usize {
        self.slots.iter().filter(|slot| slot.node.is_some()).count()
    }

    /// Empties the slot of `id` and closes the gap: each later slot of the run that may move towards its home does.
    fn vacate(&mut self, id: NodeId, hash: u32) {
        let mut gap = self.home(hash);
        while self.slots[gap].node != Some(id) {
            gap = self.after(gap);
        }
        let mask = self.slots.len() - 1;
        let mut at = gap;
        loop {
            at = self.after(at);
            let slot = self.slots[at];
            if slot.node.is_none() {
                break;
            }
            let from_home = at.wrapping_sub(self.home(slot.hash)) & mask;
            let from_gap = at.wrapping_sub(gap) & mask;
            if from_home >= from_gap {
                self.slots[gap] = slot;
                gap = at;
            }
        }
        self.slots[gap] = VACANT;
    }

    /// Whether the node comes right after `parent`.
    fn is_after(&self, node: NodeId, parent: Parent<'_>) -> bool {
        match parent {
            Parent::Node(parent) => self.node(node).parent == Some(parent),
            Parent::Salt(salt) => self.node(node).parent.is_none() && self.salts[node.at()] == *salt,
        }
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
        let mut index = PrefixIndex::new(4, 0, 2);
        let block = BlockId::from_index;
        let (our_salt, their_salt) = (Salt::default(), Salt::from_bytes([7; 32]));
        let (ours, theirs) = (Parent::Salt(&our_salt), Parent::Salt(&their_salt));
        let insert = |index: &mut PrefixIndex, parent, at| {
            let Err(vacancy) = index.look_up(parent, key, &[1, 2]) else { panic!("{parent:?} is there already") };
            index.insert(vacancy, parent, &[1, 2], block(at))
        };

        let first = insert(&mut index, ours, 0);
        let below = Parent::Node(first);
        for (parent, tokens) in [(ours, [1, 3]), (theirs, [1, 2]), (below, [1, 2])] {
            assert_eq!(index.find(parent, key, &tokens), None, "{parent:?} {tokens:?}");
        }
        let second = insert(&mut index, theirs, 1);
        let third = insert(&mut index, below, 2);
        for (parent, node) in [(ours, first), (theirs, second), (below, third)] {
            assert_eq!(index.find(parent, key, &[1, 2]), Some(node), "{parent:?}");
        }
        // Removal closes the gap in the run of equal hashes.
        for (node, block) in [(third, block(2)), (first, block(0))] {
            assert_eq!(index.detach(node, block, false), Detached::Last { announced: false });
            index.remove(node);
        }
        assert_eq!(index.find(theirs, key, &[1, 2]), Some(second));
        assert_eq!(index.num_occupied_slots(), 1);
    }
}
