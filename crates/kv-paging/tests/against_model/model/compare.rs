//! What can be seen of the cache, against the model.

use std::collections::BTreeSet;

use kv_paging::{BlockKey, CacheEvent, Tier, Usage};

use super::{HostBlock, Model, Prefix, last_key};

impl Model {
    /// All that can be seen from outside agrees, and the cache's own invariants hold.
    pub(super) fn compare(&mut self) {
        self.cache.check_invariants();
        for sequence in &self.sequences {
            assert_eq!(self.cache.is_withdrawn(&sequence.table), self.is_withdrawn(sequence), "withdrawn tables");
        }
        let count = |test: &dyn Fn(usize) -> bool| (0..self.blocks.len()).filter(|block| test(*block)).count() as u32;
        let count_host = |test: &dyn Fn(&HostBlock) -> bool| self.host.iter().filter(|host| test(host)).count() as u32;
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
            host_free: count_host(&|host| host.prefix.is_none() && host.busy.is_none()),
            host_cached: count_host(&|host| host.prefix.is_some() && host.busy.is_none()),
            host_in_transit: count_host(&|host| host.busy.is_some()),
            host_total: self.host.len() as u32,
        };
        assert_eq!(self.cache.usage(), expected);
        assert_eq!(self.cache.num_free(), expected.free + expected.cached);
        for (tenant, tokens) in &distinct {
            let parent = (*tenant, tokens[..tokens.len() - self.block_size].to_vec());
            assert!(parent.1.is_empty() || distinct.contains(&parent), "a prefix is indexed while a longer one is");
        }
        for prefix in self.host.iter().filter_map(|host| host.prefix.as_ref()) {
            let parent = self.parent(prefix);
            assert!(parent.is_none_or(|parent| self.host_of(&parent).is_some()), "the host tier holds whole prefixes");
        }
        let stats = self.cache.stats();
        assert_eq!(stats.num_hit_tokens, self.num_hit_tokens);
        assert_eq!(stats.num_fetched_tokens, self.num_fetched_tokens);
        assert_eq!(stats.num_evicted_blocks, self.num_evicted);
        assert_eq!(stats.num_regretted_blocks, self.num_regretted);
        assert!(stats.lifetimes.buckets().eq(self.lifetimes.clone()), "lifetimes");
        assert!(stats.reuse_gaps.buckets().eq(self.reuse_gaps.clone()), "reuse gaps");
        self.compare_events();
    }

    fn compare_events(&mut self) {
        let (known, block_size) = (&mut self.announced_by_events, self.block_size);
        self.cache.drain_events(|event| match event {
            CacheEvent::Stored { tier, key, parent, tokens } => {
                assert_eq!(tokens.len(), block_size);
                assert!(parent.is_none_or(|parent| known.contains_key(&(tier, parent))), "parents are stored first");
                assert!(known.insert((tier, key), parent).is_none(), "stored once");
            }
            CacheEvent::Removed { tier, key } => {
                assert!(known.remove(&(tier, key)).is_some(), "removed after it was stored");
                let is_child = |((other, _), parent): (&(Tier, BlockKey), &Option<BlockKey>)| {
                    *other == tier && *parent == Some(key)
                };
                assert!(!known.iter().any(is_child), "children are removed first");
            }
            CacheEvent::Cleared => known.clear(),
            CacheEvent::Lost { .. } => panic!("the log is long enough"),
        });
        let in_host = self.host.iter().filter(|host| host.is_filled).filter_map(|host| host.prefix.as_ref());
        let named = |tier, prefix| (tier, last_key(prefix, block_size));
        let expected: BTreeSet<(Tier, BlockKey)> = (self.announced.iter().map(|prefix| named(Tier::Device, prefix)))
            .chain(in_host.map(|prefix| named(Tier::Host, prefix)))
            .collect();
        assert!(expected.iter().eq(known.keys()), "events tell what is published");
    }
}
