//! Figures: what the pool holds now, and what has happened since the cache was made. Counts of blocks,
//! tokens, slots and steps; no bytes and no seconds.

use crate::Histogram;

/// Where the blocks are now. Every block is in exactly one of `free`, `cached`, `active` and `in_transit`, and every block of
/// the host tier in exactly one of `host_free`, `host_cached` and `host_in_transit`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Blocks that hold nothing.
    pub free: u32,
    /// Blocks that no table holds and that can be matched; taken, least recently used first, when no block is free.
    pub cached: u32,
    /// Blocks held by at least one table.
    pub active: u32,
    /// Blocks that no table holds and that a step in flight may still read or write.
    pub in_transit: u32,
    /// All blocks.
    pub total: u32,
    /// Of the active blocks, those that pins hold; a block of several pins counts for each of them.
    pub pinned: u32,
    /// Waste: blocks whose tokens, prefix included, another block holds too.
    pub duplicates: u32,
    /// Waste: slots of tables beyond their [`num_tokens`](crate::BlockTable::num_tokens).
    pub empty_slots: u64,
    /// Blocks of the host tier that hold nothing.
    pub host_free: u32,
    /// Blocks of the host tier that hold a content.
    pub host_cached: u32,
    /// Blocks of the host tier that a copy of a step in flight reads or writes.
    pub host_in_transit: u32,
    /// All blocks of the host tier.
    pub host_total: u32,
}

/// Counts since the cache was made. They only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CacheStats {
    /// Tokens of all prompts given to [`admit`](crate::KvCache::admit).
    pub num_queried_tokens: u64,
    /// Tokens of those prompts that were matched, [fetched](crate::KvCache::fetch) ones included. Divided by the queried
    /// ones: the hit rate.
    pub num_hit_tokens: u64,
    /// Of the matched tokens, those that were fetched from the host tier.
    pub num_fetched_tokens: u64,
    /// Blocks copied to the host tier.
    pub num_offloaded_blocks: u64,
    /// Of the blocks copied to the host tier, those whose copy was evicted from there.
    pub num_host_evicted_blocks: u64,
    /// Blocks taken: by [`grow`](crate::KvCache::grow), by [`fetch`](crate::KvCache::fetch), and for the copies of
    /// [`fork`](crate::KvCache::fork).
    pub num_taken_blocks: u64,
    /// Of the blocks taken, those that had to be evicted, perhaps to the host tier.
    pub num_evicted_blocks: u64,
    /// Blocks promised to the prefix index, duplicates included.
    pub num_promised_blocks: u64,
    /// Of the blocks promised, those whose content another block of the pool held already.
    pub num_duplicate_blocks: u64,
    /// Blocks withdrawn because a step failed.
    pub num_withdrawn_blocks: u64,
    /// Regret: blocks promised whose content had been evicted from both tiers not long before: see
    /// [`regret_window`](crate::KvCacheConfig::regret_window). Each eviction is regretted at most once. An estimate: one
    /// content in eight is followed, chosen by its key, and counts for eight.
    pub num_regretted_blocks: u64,
    /// How old evicted blocks became: retired steps from the one that filled them to their eviction.
    pub lifetimes: Histogram,
    /// How long cached blocks waited to be used again: retired steps from when their last table was gone, for those that
    /// were matched or pinned.
    pub reuse_gaps: Histogram,
}
