//! What can be seen of the cache, against the model.

use std::collections::BTreeSet;

use kv_paging::{BlockKey, CacheEvent, Usage};

use super::{Model, Prefix, last_key};

impl Model {
    /// All that can be seen from outside agrees, and the cache's own invariants hold.
    pub(super) fn compare(&mut self) {
        self.cache.check_invariants();
        for sequence in &self.sequences {
            assert_eq!(self.cache.is_withdrawn(&sequence.table), self.is_withdrawn(sequence), "withdrawn tables");
        }
        let count = |test: &dyn Fn(usize) -> bool| (0..self.blocks.len()).filter(|block| test(*block)).count() as u32;
        let held_tokens: usize = self.sequences.iter().map(|sequence| sequence.tokens.len()).sum();
        let held_blocks: usize = self.sequences.iter().map(|sequence| sequence.table.blocks().len()).sum();
        let num_pinned: usize = self.pins.iter().map(|pin| pin.blocks().len()).sum();
        let prefixes: Vec<&Prefix> = self.blocks.iter().filter_map(|block| block.content.prefix()).collect();
        let distinct: BTreeSet<&Prefix> = prefixes.iter().copied().collect();
        let expected = Usage {
            free: count(&|block| self.is_takeable(block) && !self.blocks[block].is_cached),
            cached: count(&|block| self.is_takeable(block) && self.blocks[block].is_cached),
            active: count(&|block| self.is_held(block)),
            in_transit: count(&|block| !self.is_held(block) && self.is_busy(block)),
            total: self.blocks.len() as u32,
            pinned: num_pinned as u32,
            duplicates: (prefixes.len() - distinct.len()) as u32,
            empty_slots: (held_blocks * self.block_size - held_tokens) as u64,
        };
        assert_eq!(self.cache.usage(), expected);
        assert_eq!(self.cache.num_free(), expected.free + expected.cached);
        for (tenant, tokens) in &distinct {
            let parent = (*tenant, tokens[..tokens.len() - self.block_size].to_vec());
            assert!(parent.1.is_empty() || distinct.contains(&parent), "a prefix is indexed while a longer one is");
        }
        let stats = self.cache.stats();
        assert_eq!(stats.num_hit_tokens, self.num_hit_tokens);
        assert_eq!(stats.num_evicted_blocks, self.num_evicted);
        assert_eq!(stats.num_regretted_blocks, self.num_regretted);
        assert!(stats.lifetimes.buckets().eq(self.lifetimes.clone()), "lifetimes");
        assert!(stats.reuse_gaps.buckets().eq(self.reuse_gaps.clone()), "reuse gaps");
        self.compare_events();
    }

    fn compare_events(&mut self) {
        let (known, block_size) = (&mut self.announced_by_events, self.block_size);
        self.cache.drain_events(|event| match event {
            CacheEvent::Stored { key, parent, tokens } => {
                assert_eq!(tokens.len(), block_size);
                assert!(parent.is_none_or(|parent| known.contains_key(&parent)), "parents are stored first");
                assert!(known.insert(key, parent).is_none(), "stored once");
            }
            CacheEvent::Removed { key } => {
                assert!(known.remove(&key).is_some(), "removed after it was stored");
                assert!(known.values().all(|parent| *parent != Some(key)), "children are removed first");
            }
            CacheEvent::Cleared => known.clear(),
            CacheEvent::Lost { .. } => panic!("the log is long enough"),
        });
        let expected: BTreeSet<BlockKey> = self.announced.iter().map(|prefix| last_key(prefix, block_size)).collect();
        assert!(expected.iter().eq(known.keys()), "events tell what is published");
    }
}
