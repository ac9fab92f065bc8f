//! The cache: tables are opened, grown, cut, forked and released here, and the cached block of least worth makes way.
//!
//! How steps publish what they fill is in `promises.rs`, what is copied to the host tier and back in `tier.rs`. Knows no
//! requests, no devices, no bytes, no wall time, no threads.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;

use crate::config::{ConfigError, KvCacheConfig, PrefixCaching};
use crate::events::{CacheEvent, EventLog};
use crate::ghosts::{Ghosts, SAMPLING};
use crate::host::HostPool;
use crate::index::{Detached, NodeId, Parent, PrefixIndex};
use crate::pool::{Content, Place, Pool};
use crate::promises::Promises;
use crate::stats::{CacheStats, Usage};
use crate::tier::Offloads;
use crate::{
    Admission, BlockCopy, BlockId, BlockKey, BlockTable, LogicalTime, PrefixKeys, Retention, StepId, Tier, TierCopy,
    TokenId,
};

/// Decides which physical block holds which tokens.
///
/// One thread owns it; every call is a plain function of what came before. See the [crate's essay](crate) for the life of
/// a block and for why a hit can be trusted.
pub struct KvCache {
    pub(crate) config: KvCacheConfig,
    /// The block size is two to this power: block counts are taken at every call, and divisions are slow.
    block_size_log2: u32,
    pub(crate) pool: Pool,
    pub(crate) index: PrefixIndex,
    pub(crate) promises: Promises,
    pub(crate) host: HostPool,
    pub(crate) offloads: Offloads,
    /// Copies between the tiers that were not drained yet, in the order in which they were planned.
    pub(crate) copies: Vec<TierCopy>,
    pub(crate) events: EventLog,
    pub(crate) ghosts: Ghosts,
    pub(crate) stats: CacheStats,
    /// How often the prefix cache was cleared.
    pub(crate) generation: u64,
    /// Cloned into every table.
    pub(crate) owner: Arc<()>,
    pub(crate) num_tables: u32,
    /// Blocks of all live tables, shared ones counted once for each table.
    pub(crate) num_table_blocks: u64,
    /// Tokens of all live tables, likewise.
    pub(crate) num_table_tokens: u64,
    /// Blocks of all pins, shared ones counted once for each pin.
    pub(crate) num_pinned_blocks: u32,
    /// Emptied arrays of released tables, so that opening one allocates nothing in steady state. As many as there ever
    /// were live tables at once.
    spare: Vec<Vec<BlockId>>,
}

impl KvCache {
    /// A cache whose blocks are all free. All memory but the tables' own is allocated here.
    ///
    /// # Errors
    /// If the configuration is out of range.
    pub fn new(config: KvCacheConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let (num_indexed, num_host_blocks) = match config.prefix_caching {
            PrefixCaching::On => (config.num_blocks, config.num_host_blocks),
            PrefixCaching::Off => (0, 0),
        };
        Ok(Self {
            config,
            block_size_log2: config.block_size.ilog2(),
            pool: Pool::new(config.num_blocks),
            index: PrefixIndex::new(num_indexed, num_host_blocks, config.block_size),
            promises: Promises::new(num_indexed),
            host: HostPool::new(num_host_blocks),
            offloads: Offloads::new(if num_host_blocks == 0 { 0 } else { config.num_blocks }),
            copies: Vec::new(),
            events: EventLog::off(),
            ghosts: Ghosts::new(if num_indexed == 0 { 0 } else { config.regret_window.div_ceil(SAMPLING) }),
            stats: CacheStats::default(),
            generation: 0,
            owner: Arc::new(()),
            num_tables: 0,
            num_table_blocks: 0,
            num_table_tokens: 0,
            num_pinned_blocks: 0,
            spare: Vec::new(),
        })
    }

    /// What the cache was made from.
    #[must_use]
    pub fn config(&self) -> &KvCacheConfig {
        &self.config
    }

    /// Opens a table that holds the longest prefix of `prompt`, in full blocks, that is published or promised. Takes
    /// references on those blocks and allocates nothing else; [`grow`](Self::grow) makes room for the rest.
    ///
    /// Never matches the whole prompt: at least one token is left to compute, or there would be no output to sample from.
    /// Matches only blocks that `keys` covers. An empty `prompt` gives an empty table. What follows in the host tier is
    /// left there for [`fetch`](Self::fetch).
    ///
    /// # Panics
    /// If `keys` has another block size than the cache.
    pub fn admit(&mut self, keys: &PrefixKeys, prompt: &[TokenId]) -> Admission {
        let mut table = self.open_table();
        let mut prefix = Prefix::new(keys);
        for tokens in self.matchable(keys, prompt) {
            let Some(node) = prefix.descend(&self.index, tokens) else { break };
            let Some(block) = self.index.first_block(node) else { break };
            self.reuse(block);
            table.blocks.push(block);
        }
        let num_cached_tokens = self.hold(&mut table);
        self.touch_copies(&table);
        self.stats.num_queried_tokens += prompt.len() as u64;
        self.stats.num_hit_tokens += u64::from(num_cached_tokens);
        Admission { table, num_cached_tokens }
    }

    /// The tokens that [`admit`](Self::admit) would match now, and [`fetch`](Self::fetch) after it if there is room. Takes
    /// nothing and counts nothing.
    ///
    /// # Panics
    /// If `keys` has another block size than the cache.
    #[must_use]
    pub fn matched_tokens(&self, keys: &PrefixKeys, prompt: &[TokenId]) -> u32 {
        let mut prefix = Prefix::new(keys);
        let blocks = self.matchable(keys, prompt);
        let num_matched = blocks.map_while(|tokens| prefix.descend(&self.index, tokens)).count();
        num_matched as u32 * self.config.block_size
    }

    /// Makes room for `num_tokens` tokens in all, not in addition; does nothing if there is room already. The new blocks
    /// are at the end of [`BlockTable::blocks`]. Free blocks are taken first, then cached ones, least recently used first.
    ///
    /// # Errors
    /// If fewer blocks are free or cached than are needed. Then nothing has changed.
    pub fn grow(&mut self, table: &mut BlockTable, num_tokens: u32) -> Result<(), OutOfBlocks> {
        self.assert_owns(table);
        if num_tokens <= table.num_tokens {
            return Ok(());
        }
        let num_new = self.num_blocks_of(num_tokens) - table.blocks.len() as u32;
        self.check_available(num_new)?;
        table.blocks.extend((0..num_new).map(|_| self.take()));
        self.num_table_blocks += u64::from(num_new);
        self.num_table_tokens += u64::from(num_tokens - table.num_tokens);
        table.num_tokens = num_tokens;
        Ok(())
    }

    /// Cuts the table to `num_tokens` tokens: rejected drafts, a row that ran on after its end. Does nothing if it has no
    /// more. Blocks that fall away become takeable when `after`, the last step that touches them, is retired (at once if
    /// there is none).
    ///
    /// # Panics
    /// If the cut runs through a block that is shared, promised or published: such a block is never written again.
    pub fn truncate(&mut self, table: &mut BlockTable, num_tokens: u32, after: Option<StepId>) {
        self.assert_owns(table);
        if num_tokens >= table.num_tokens {
            return;
        }
        let num_kept = self.num_blocks_of(num_tokens) as usize;
        if num_kept > self.num_full_blocks_of(num_tokens) as usize {
            let cut = self.pool.get(table.blocks[num_kept - 1]);
            assert!(cut.num_tables == 1, "a shared block is never cut");
            assert!(cut.node.is_none(), "a promised or published block is never cut");
        }
        self.num_table_blocks -= (table.blocks.len() - num_kept) as u64;
        self.num_table_tokens -= u64::from(table.num_tokens - num_tokens);
        let mut busy_end = after.map_or(0, StepId::end);
        while table.blocks.len() > num_kept {
            let block = table.blocks.pop().expect("more blocks than are kept");
            self.let_go(block, &mut busy_end);
        }
        // A block stays busy at least as long as the blocks after it, so that none of them outlives it in the index.
        if let Some(last) = table.blocks.last() {
            let last = self.pool.get_mut(*last);
            last.busy_end = last.busy_end.max(busy_end);
        }
        table.num_tokens = num_tokens;
    }

    /// Opens a second table for the first `num_tokens` tokens of `table`: parallel samples, beams. Full blocks are shared;
    /// a partly filled last block gets a copy, which is returned as work to do before the fork is read or written.
    ///
    /// A copy of a promised block is withdrawn with it. Whether a step in flight fills a block that was never promised, only
    /// the caller knows: if that step fails, forks taken since it was planned are lost like the table itself.
    ///
    /// # Errors
    /// If a copy is needed and no block is free or cached. Then nothing has changed.
    ///
    /// # Panics
    /// If the table has fewer than `num_tokens` tokens.
    pub fn fork(
        &mut self,
        table: &BlockTable,
        num_tokens: u32,
    ) -> Result<(BlockTable, Option<BlockCopy>), OutOfBlocks> {
        self.assert_owns(table);
        assert!(num_tokens <= table.num_tokens, "a fork takes no more tokens than there are");
        let num_shared = self.num_full_blocks_of(num_tokens) as usize;
        let has_partial = self.num_blocks_of(num_tokens) as usize > num_shared;
        let partial = has_partial.then(|| table.blocks[num_shared]);
        self.check_available(u32::from(partial.is_some()))?;

        let mut fork = self.open_table();
        fork.generation = table.generation;
        fork.retention = table.retention;
        fork.num_tokens = num_tokens;
        fork.blocks.extend_from_slice(&table.blocks[..num_shared]);
        for block in &fork.blocks {
            self.pool.acquire(*block);
        }
        let copy = partial.map(|from| {
            let to = self.take();
            self.copy_promise(from, to);
            fork.blocks.push(to);
            BlockCopy { from, to }
        });
        self.num_table_blocks += fork.blocks.len() as u64;
        self.num_table_tokens += u64::from(num_tokens);
        Ok((fork, copy))
    }

    /// Takes the table back. Its blocks become takeable when `after`, the last step that touches them, is retired (at once
    /// if there is none). Published blocks stay cached until their memory is needed.
    pub fn release(&mut self, table: BlockTable, after: Option<StepId>) {
        self.assert_owns(&table);
        let BlockTable { mut blocks, num_tokens, retention, generation: _, owner: _ } = table;
        self.num_tables -= 1;
        self.num_table_blocks -= blocks.len() as u64;
        self.num_table_tokens -= u64::from(num_tokens);
        let mut busy_end = after.map_or(0, StepId::end);
        // From the end, so that blocks are cached, and later evicted, before the blocks of their prefix.
        while let Some(block) = blocks.pop() {
            self.retain(block, retention);
            self.let_go(block, &mut busy_end);
        }
        self.spare.push(blocks);
    }

    /// Blocks that [`grow`](Self::grow) can take now: the free and the cached ones.
    #[must_use]
    pub fn num_free(&self) -> u32 {
        self.pool.free.len() as u32 + self.pool.cached.len()
    }

    /// Moves logical time on to `now`. Retentions that end by then become [`Retention::Normal`].
    ///
    /// Takes constant time for each cached block whose retention ends, and each is looked at at most 64 times before.
    ///
    /// # Panics
    /// If time would go back.
    pub fn advance(&mut self, now: LogicalTime) {
        let Self { pool, host, index, .. } = self;
        pool.advance(now, |node| index.node(node).retention);
        host.advance(now, |node| index.node(node).retention);
    }

    /// Where the blocks are.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let num_slots = self.num_table_blocks * u64::from(self.config.block_size);
        Usage {
            free: self.pool.free.len() as u32,
            cached: self.pool.cached.len(),
            active: self.pool.num_active,
            in_transit: self.pool.in_transit.len(),
            total: self.pool.num_blocks(),
            pinned: self.num_pinned_blocks,
            duplicates: self.index.num_duplicates(),
            // Only a table's last, unshared block has empty slots, so counting shared blocks more than once is harmless.
            empty_slots: num_slots - self.num_table_tokens,
            host_free: self.host.free.len() as u32,
            host_cached: self.host.num_blocks() - self.host.free.len() as u32 - self.host.in_transit.len(),
            host_in_transit: self.host.in_transit.len(),
            host_total: self.host.num_blocks(),
        }
    }

    /// Counts since the cache was made.
    #[must_use]
    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }

    /// Records events from now on, up to `max_events` between two drains; zero stops recording. Undrained events are
    /// dropped. Blocks that are published already are not reported: call this before the first request.
    pub fn record_events(&mut self, max_events: usize) {
        self.events = EventLog::with_capacity(max_events, self.config.block_size);
    }

    /// Hands every event since the last drain to `sink`, oldest first.
    pub fn drain_events(&mut self, sink: impl FnMut(CacheEvent<'_>)) {
        self.events.drain(self.config.block_size, sink);
    }

    /// Forgets every prefix, for example because the weights have changed. Cached blocks become free. Live tables keep
    /// their blocks, and nothing that they hold or will hold is ever shared with tables opened after this.
    pub fn clear_prefix_cache(&mut self) {
        while let Some(block) = self.pool.cached.front() {
            self.pool.remove_cached(block);
            self.pool.put_free(block);
        }
        for index in 0..self.pool.num_blocks() {
            let block = self.pool.get_mut(BlockId::from_index(index));
            block.node = None;
            if block.content == Content::Published {
                block.content = Content::Private;
            }
            block.is_to_offload = false;
        }
        self.clear_host();
        self.index.clear();
        self.ghosts.clear();
        self.generation += 1;
        self.events.cleared();
    }

    /// Forgets the prefix that ends with `block` and every longer one, because what computed it turned out to be faulty;
    /// a table's first block stands for all that the table holds. Cached blocks of these prefixes become free. Tables keep
    /// theirs, and neither these nor any after them are shared from now on. Does nothing if the block is not in the prefix
    /// index. Takes time in proportion to both pools.
    ///
    /// # Panics
    /// If the block is not of this pool.
    pub fn forget(&mut self, block: BlockId) {
        let Some(root) = self.pool.get(block).node else { return };
        // The host tier first, so that no content falls back to it.
        self.forget_host(root);
        let blocks = (0..self.pool.num_blocks()).map(BlockId::from_index);
        let depth_of = |block| Some((self.index.depth_below(root, self.pool.get(block).node?)?, block));
        let mut fallen: Vec<(u32, BlockId)> = blocks.filter_map(depth_of).collect();
        // Leaves before parents.
        fallen.sort_unstable_by_key(|(depth, _)| Reverse(*depth));
        for (_, block) in fallen {
            if self.pool.get(block).place == Place::Cached {
                self.discard_cached(block);
                continue;
            }
            self.detach(block);
            let record = self.pool.get_mut(block);
            record.is_forgotten = true;
            if record.content == Content::Published {
                record.content = Content::Private;
            }
        }
    }

    pub(crate) fn assert_owns(&self, table: &BlockTable) {
        assert!(Arc::ptr_eq(&self.owner, &table.owner), "the table belongs to another cache");
    }

    /// Full blocks among `num_tokens` tokens.
    pub(crate) fn num_full_blocks_of(&self, num_tokens: u32) -> u32 {
        num_tokens >> self.block_size_log2
    }

    /// Blocks that hold `num_tokens` tokens.
    fn num_blocks_of(&self, num_tokens: u32) -> u32 {
        let has_partial = num_tokens & (self.config.block_size - 1) != 0;
        self.num_full_blocks_of(num_tokens) + u32::from(has_partial)
    }

    /// The part of a prompt that may be matched, in blocks: what `keys` covers, and never all of it.
    pub(crate) fn matchable<'a>(
        &self,
        keys: &PrefixKeys,
        prompt: &'a [TokenId],
    ) -> impl Iterator<Item = &'a [TokenId]> + use<'a> {
        assert_eq!(keys.block_size(), self.config.block_size, "keys are made for the cache's block size");
        let num_indexable = match self.config.prefix_caching {
            PrefixCaching::On => keys.num_blocks() as usize,
            PrefixCaching::Off => 0,
        };
        let all_but_one = &prompt[..prompt.len().saturating_sub(1)];
        all_but_one.chunks_exact(self.config.block_size as usize).take(num_indexable)
    }

    pub(crate) fn open_table(&mut self) -> BlockTable {
        self.num_tables += 1;
        BlockTable {
            blocks: self.spare.pop().unwrap_or_default(),
            num_tokens: 0,
            generation: self.generation,
            retention: Retention::default(),
            owner: Arc::clone(&self.owner),
        }
    }

    /// A new table holds a block that is in the index.
    pub(crate) fn reuse(&mut self, block: BlockId) {
        if let Some(num_steps) = self.pool.acquire(block) {
            self.stats.reuse_gaps.add(num_steps);
        }
    }

    /// A new table holds full blocks and no others. Returns its tokens.
    pub(crate) fn hold(&mut self, table: &mut BlockTable) -> u32 {
        table.num_tokens = table.blocks.len() as u32 * self.config.block_size;
        self.num_table_blocks += table.blocks.len() as u64;
        self.num_table_tokens += u64::from(table.num_tokens);
        table.num_tokens
    }

    fn check_available(&self, num_needed: u32) -> Result<(), OutOfBlocks> {
        let num_free = self.num_free();
        if num_needed > num_free { Err(OutOfBlocks { num_needed, num_free }) } else { Ok(()) }
    }

    /// A block for a new owner. The caller has checked that there is one.
    pub(crate) fn take(&mut self) -> BlockId {
        self.stats.num_taken_blocks += 1;
        if let Some(block) = self.pool.take_free() {
            return block;
        }
        let oldest = self.pool.cached.front().expect("a block is free or cached");
        self.stats.num_evicted_blocks += 1;
        self.stats.lifetimes.add(self.pool.steps_since_full(oldest));
        self.pool.remove_cached(oldest);
        if let Some(key) = self.detach(oldest) {
            self.ghosts.add(key);
        }
        self.pool.take_removed(oldest);
        oldest
    }

    /// A table that is released wants what this block holds to be kept. If a cached block holds the same, which the table
    /// has a newer, only promised, copy of, that one counts as just used.
    fn retain(&mut self, block: BlockId, retention: Retention) {
        let Some(node) = self.pool.get(block).node else { return };
        let node = self.index.node_mut(node);
        node.retention = node.retention.max(retention);
        let retention = node.retention;
        let first = node.blocks.front().expect("the node has this block");
        if let Some(host) = node.host {
            self.host.touch(host, retention);
        }
        if first != block && self.pool.get(first).place == Place::Cached {
            self.pool.remove_cached(first);
            self.pool.put_cached(first, retention);
        }
    }

    /// A table drops a block that is busy until `busy_end`. Tables drop from their end, and `busy_end` grows on the way: a
    /// block is busy at least as long as the blocks after it.
    fn let_go(&mut self, block: BlockId, busy_end: &mut u64) {
        let record = self.pool.get(block);
        *busy_end = record.busy_end.max(record.filled_end()).max(*busy_end);
        if self.pool.let_go(block, *busy_end) {
            self.place(block);
        }
    }

    /// Finds a place for a block that no table holds and no step in flight names: cached if no other published block has
    /// its content, else free.
    pub(crate) fn place(&mut self, block: BlockId) {
        if let Some(node) = self.pool.get(block).node {
            let node = self.index.node(node);
            if node.num_published == 1 {
                self.pool.put_cached(block, node.retention);
                return;
            }
            self.detach(block);
        }
        self.pool.put_free(block);
    }

    /// Frees a cached block, whose content is then lost unless another block holds it, of whichever tier.
    pub(crate) fn discard_cached(&mut self, block: BlockId) {
        self.pool.remove_cached(block);
        self.detach(block);
        self.pool.put_free(block);
    }

    /// Takes a block out of the index, if it is there. Returns the name of the content if no block of any tier holds it any
    /// more.
    pub(crate) fn detach(&mut self, block: BlockId) -> Option<BlockKey> {
        let record = self.pool.get_mut(block);
        let node = record.node.take()?;
        let was_published = record.content == Content::Published;
        if core::mem::take(&mut record.is_to_offload) {
            self.offloads.remove(block);
        }
        let Detached::Last { announced } = self.index.detach(node, block, was_published) else { return None };
        let (key, host) = (self.index.node(node).key, self.index.node(node).host);
        if announced {
            self.events.removed(Tier::Device, key);
        }
        if let Some(host) = host {
            if self.host.get(host).is_filled {
                return None;
            }
            // A copy under way keeps nothing alive: whether it arrives is not known yet.
            self.forget_copy(host, node);
        }
        self.index.remove(node);
        Some(key)
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache").field("config", &self.config).field("usage", &self.usage()).finish_non_exhaustive()
    }
}

/// A walk down the index along a sequence's keys.
pub(crate) struct Prefix<'a> {
    pub(crate) keys: &'a PrefixKeys,
    pub(crate) depth: usize,
    pub(crate) parent: Parent<'a>,
}

impl<'a> Prefix<'a> {
    /// At the root of the sequence's tenant.
    fn new(keys: &'a PrefixKeys) -> Self {
        Self { keys, depth: 0, parent: Parent::Salt(keys.salt()) }
    }

    /// Steps to the next node, if it is there and holds `tokens`.
    pub(crate) fn descend(&mut self, index: &PrefixIndex, tokens: &[TokenId]) -> Option<NodeId> {
        let node = index.find(self.parent, self.keys.block_keys()[self.depth], tokens)?;
        self.depth += 1;
        self.parent = Parent::Node(node);
        Some(node)
    }
}

/// Fewer blocks can be taken than are needed. For the scheduler: wait, preempt, or refuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfBlocks {
    /// Blocks that the call needed.
    pub num_needed: u32,
    /// Blocks that it could have taken.
    pub num_free: u32,
}

impl fmt::Display for OutOfBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KV blocks are needed and {} can be taken", self.num_needed, self.num_free)
    }
}

impl core::error::Error for OutOfBlocks {}
