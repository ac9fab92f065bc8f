//! The invariants, checked from scratch. Slow (linear in the pool), for tests, simulators and debugging.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::cache::KvCache;
use crate::eviction::Rank;
use crate::host::HostBlock;
use crate::ids::Indexed;
use crate::index::{Node, NodeId};
use crate::list::{BlockList, Links};
use crate::pool::{Block, Content, Place};
use crate::{BlockId, HostBlockId};

impl KvCache {
    /// Checks everything that must hold between calls.
    ///
    /// # Panics
    /// With a description of what does not hold. A table that was dropped without release is reported as a leak.
    pub fn check_invariants(&self) {
        self.check_tables();
        self.check_places();
        self.check_promises();
        self.check_index();
        self.check_eviction_order();
        self.check_host_places();
        self.check_host_order();
        self.check_offloads();
    }

    fn blocks(&self) -> impl Iterator<Item = (BlockId, &Block)> {
        (0..self.pool.num_blocks()).map(BlockId::from_index).map(|block| (block, self.pool.get(block)))
    }

    fn check_tables(&self) {
        let num_handles = Arc::strong_count(&self.owner) - 1;
        assert_eq!(num_handles, self.num_tables as usize, "a block table was dropped without release: its blocks leak");
        let num_references: u64 = self.blocks().map(|(_, record)| u64::from(record.num_tables)).sum();
        assert_eq!(num_references, self.num_table_blocks, "reference counts add up to the blocks of all tables");
        assert!(
            self.num_table_tokens <= num_references * u64::from(self.config.block_size),
            "tables hold their tokens"
        );
    }

    /// Every block is in the one list that its place says.
    fn check_places(&self) {
        let mut place = vec![Place::Active; self.pool.num_blocks() as usize];
        for (list, name) in [
            (self.pool.free.clone(), Place::Free),
            (self.cached().into_iter().map(|(_, block)| block).collect(), Place::Cached),
            (members(&self.pool.in_transit, self.pool.links()), Place::InTransit),
        ] {
            for block in list {
                assert_eq!(place[block.at()], Place::Active, "block {block} is in one list only");
                place[block.at()] = name;
            }
        }
        for (block, record) in self.blocks() {
            assert_eq!(record.place, place[block.at()], "block {block} is listed where it says it is");
            assert_eq!(
                record.place == Place::Active,
                record.num_tables > 0,
                "block {block} is active if a table holds it"
            );
            let is_busy = record.busy_end.max(record.filled_end()) > self.pool.retired_end;
            match record.place {
                Place::Active => {}
                Place::InTransit => assert!(is_busy, "block {block} is in transit while a step may touch it"),
                Place::Cached => {
                    assert!(!is_busy, "block {block} is cached only once no step touches it");
                    assert_eq!(record.content, Content::Published, "block {block} is cached, so it is published");
                }
                Place::Free => {
                    assert!(!is_busy, "block {block} is free only once no step touches it");
                    assert_eq!(record.content, Content::Private, "block {block} is free, so it holds nothing");
                }
            }
        }
        let num_active = place.iter().filter(|place| **place == Place::Active).count();
        assert_eq!(num_active, self.pool.num_active as usize, "active blocks are counted");
        let ends: Vec<u64> = members(&self.pool.in_transit, self.pool.links())
            .into_iter()
            .map(|block| self.pool.get(block).busy_end)
            .collect();
        assert!(ends.is_sorted(), "blocks in transit are ordered by their last step");
    }

    /// Promised blocks are listed in step order, and only shareable blocks are in the index.
    fn check_promises(&self) {
        let mut seen = vec![false; self.pool.num_blocks() as usize];
        let mut last_end = self.pool.retired_end + 1;
        for block in members(&self.promises.blocks, &self.promises.links) {
            let record = self.pool.get(block);
            assert!(record.is_promised(), "block {block} is listed as promised, so it is");
            assert!(record.filled_end() >= last_end, "block {block} is promised in step order");
            last_end = record.filled_end();
            seen[block.at()] = true;
        }
        let num_withdrawn = self.blocks().filter(|(_, record)| record.content == Content::Withdrawn).count();
        assert_eq!(num_withdrawn, self.pool.num_withdrawn as usize, "withdrawn blocks are counted");
        for (block, record) in self.blocks() {
            assert_eq!(record.is_promised(), seen[block.at()], "block {block} is listed if it is promised");
            assert!(
                !record.is_forgotten || record.node.is_none(),
                "block {block} is forgotten, so it is not in the index"
            );
            match record.content {
                Content::Published => {
                    assert!(record.node.is_some(), "block {block} is published, so it is in the index");
                }
                Content::Promised => {}
                Content::Private | Content::Withdrawn => {
                    assert!(record.node.is_none(), "block {block} is not shareable, so it is not in the index");
                }
            }
        }
    }

    /// Nodes, hash table and blocks agree.
    fn check_index(&self) {
        let mut num_listed = 0;
        let mut num_nodes = 0;
        for (id, node) in self.index.iter() {
            num_nodes += 1;
            let found = self.index.find(self.index.parent(id), node.key, self.index.tokens(id));
            assert_eq!(found, Some(id), "a node is found by its parent, key and tokens");
            if let Some(parent) = node.parent {
                assert!(self.index.contains(parent), "a node outlives its children");
            }
            let children = self.index.iter().filter(|(_, child)| child.parent == Some(id));
            assert_eq!(children.count(), node.num_children as usize, "children are counted");
            assert!(!node.hit_by_failure, "no withdrawal is going on");
            self.check_node(id, node);
            num_listed += node.blocks.len();
        }
        assert_eq!(self.index.num_occupied_slots(), num_nodes, "each node has one slot");
        let num_indexed = self.blocks().filter(|(_, record)| record.node.is_some()).count();
        assert_eq!(num_indexed, num_listed as usize, "each block in the index is listed by its node");
        let num_with_blocks = self.index.iter().filter(|(_, node)| node.blocks.len() > 0).count();
        assert_eq!(num_indexed - num_with_blocks, self.index.num_duplicates() as usize, "duplicates are counted");
    }

    fn check_node(&self, id: NodeId, node: &Node) {
        let blocks = members(&node.blocks, self.index.links());
        let records: Vec<&Block> = blocks.iter().map(|block| self.pool.get(*block)).collect();
        let is_in_host = node.host.is_some_and(|host| self.host.get(host).is_filled);
        assert!(!records.is_empty() || is_in_host, "a node has a block");
        assert!(records.iter().all(|record| record.node == Some(id)), "a node's blocks name it");
        let ends: Vec<u64> = records.iter().map(|record| record.filled_end()).collect();
        assert!(ends.is_sorted(), "published blocks come first, then promised ones in step order");
        let num_published = ends.iter().filter(|end| **end == 0).count();
        assert_eq!(num_published, node.num_published as usize, "published blocks are counted");
        assert!(num_published == 0 || node.announced, "a published node is announced");
        assert!(!records.is_empty() || !node.announced, "what the pool does not hold is not announced as there");
        let has_cached = records.iter().any(|record| record.place == Place::Cached);
        assert!(!has_cached || num_published == 1, "a cached block is the only published one of its node");
    }

    /// Cached blocks, the one that goes first before the others, with the list that they are in.
    fn cached(&self) -> Vec<(Rank, BlockId)> {
        let of_list = |(rank, list)| members(list, self.pool.links()).into_iter().map(move |block| (rank, block));
        self.pool.cached.lists().flat_map(of_list).collect()
    }

    /// Leaves before parents: some block of a node's parent goes after every block of the node, and is worth no less.
    fn check_eviction_order(&self) {
        assert!(self.pool.cached.is_consistent(), "cached blocks are counted");
        let mut order = vec![u32::MAX; self.pool.num_blocks() as usize];
        for (place, (rank, block)) in (0..).zip(self.cached()) {
            order[block.at()] = place;
            let record = self.pool.get(block);
            let node = self.index.node(record.node.expect("a cached block is in the index"));
            assert_eq!(record.rank, rank, "block {block} is in the list that it says");
            assert_eq!(self.pool.cached.rank(node.retention), rank, "block {block} is in the list of its retention");
        }
        let last = |node: &Node| members(&node.blocks, self.index.links()).iter().map(|block| order[block.at()]).max();
        for (_, node) in self.index.iter() {
            if let Some(parent) = node.parent.filter(|_| node.blocks.len() > 0) {
                let (own, parents) = (last(node), last(self.index.node(parent)));
                let is_worth_no_less = self.index.node(parent).retention >= node.retention;
                assert!(is_worth_no_less, "a prefix is retained at least as long as what continues it");
                let is_kept = parents == Some(u32::MAX) || parents > own;
                assert!(is_kept, "a block is evicted before the blocks of its prefix");
            }
        }
    }

    fn host_blocks(&self) -> impl Iterator<Item = (HostBlockId, &HostBlock)> {
        (0..self.host.num_blocks()).map(HostBlockId::from_index).map(|block| (block, self.host.get(block)))
    }

    /// Host blocks that hold a content, the one that goes first before the others, with the list that they are in.
    fn held(&self) -> Vec<(Rank, HostBlockId)> {
        let of_list = |(rank, list)| members(list, self.host.links()).into_iter().map(move |block| (rank, block));
        self.host.held.lists().flat_map(of_list).collect()
    }

    /// Every host block is free, or holds a content, or is still named by a copy, or both.
    fn check_host_places(&self) {
        let in_transit = members(&self.host.in_transit, self.host.transit_links());
        let ends: Vec<u64> = in_transit.iter().map(|block| self.host.get(*block).busy_end).collect();
        assert!(ends.is_sorted(), "host blocks in transit are ordered by their step");
        let held: Vec<HostBlockId> = self.held().into_iter().map(|(_, block)| block).collect();
        for (block, record) in self.host_blocks() {
            let count = |list: &[HostBlockId]| list.iter().filter(|other| **other == block).count();
            let (is_held, is_busy) = (record.node.is_some(), record.busy_end > self.pool.retired_end);
            assert_eq!(count(&held), usize::from(is_held), "host block {block} is listed if it holds a content");
            assert_eq!(count(&in_transit), usize::from(is_busy), "host block {block} is in transit while it is copied");
            assert_eq!(count(&self.host.free), usize::from(!is_held && !is_busy), "host block {block} is free else");
            assert!(!is_held || is_busy || record.is_filled, "host block {block} is filled once its copy is done");
            assert!(is_held || !record.is_filled, "host block {block} is filled with a content");
            let holder = record.node.map(|node| self.index.node(node).host);
            assert!(holder.is_none_or(|host| host == Some(block)), "the content of host block {block} names it");
        }
        let num_named = self.index.iter().filter(|(_, node)| node.host.is_some()).count();
        assert_eq!(num_named, held.len(), "a content names a host block that holds it");
    }

    /// What the host tier holds can be reached there alone, and goes before its prefix does.
    fn check_host_order(&self) {
        assert!(self.host.held.is_consistent(), "held host blocks are counted");
        let mut order = vec![0; self.host.num_blocks() as usize];
        for (place, (rank, block)) in self.held().into_iter().enumerate() {
            order[block.at()] = place;
            let record = self.host.get(block);
            let node = self.index.node(record.node.expect("a held host block has a content"));
            assert_eq!(record.rank, rank, "host block {block} is in the list that it says");
            assert_eq!(self.host.rank(node.retention), rank, "host block {block} is in the list of its retention");
        }
        for (_, node) in self.index.iter() {
            if let (Some(host), Some(parent)) = (node.host, node.parent) {
                let parent = self.index.node(parent).host.expect("the host tier holds the prefix of what it holds");
                assert!(order[host.at()] < order[parent.at()], "host block {host} goes before its prefix does");
            }
        }
    }

    /// Exactly the blocks that say so wait to be copied to the host tier.
    fn check_offloads(&self) {
        let queue = members(&self.offloads.queue, &self.offloads.links);
        for (block, record) in self.blocks() {
            let count = queue.iter().filter(|other| **other == block).count();
            assert_eq!(count, usize::from(record.is_to_offload), "block {block} waits once, if it says so");
            assert!(count == 0 || record.content == Content::Published, "block {block} waits, so it is published");
        }
    }
}

/// The blocks of a list, after checking that it ends where and when it says.
fn members<I: Indexed>(list: &BlockList<I>, links: &Links<I>) -> Vec<I> {
    let blocks: Vec<I> = list.iter(links).take(list.len() as usize + 1).collect();
    assert_eq!(blocks.len(), list.len() as usize, "a list is as long as it says");
    assert_eq!(blocks.last().copied(), list.back(), "a list ends where it says");
    let backwards = core::iter::successors(list.back(), |block| list.prev(links, *block));
    assert!(backwards.eq(blocks.iter().rev().copied()), "a list reads the same backwards");
    blocks
}
