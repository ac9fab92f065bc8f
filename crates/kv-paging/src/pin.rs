//! Pins: prefixes that are not evicted, without a request that holds them. A pin is a table that nobody writes to.

use core::fmt;

use crate::cache::KvCache;
use crate::index::Parent;
use crate::{BlockId, BlockTable, PrefixKeys};

/// Holds the blocks of a published prefix, so that they are not evicted: a system prompt that must always be there.
///
/// Made by [`KvCache::pin`] and given back by [`KvCache::unpin`], which consumes it; one that is dropped leaks its blocks
/// like a [`BlockTable`]. What is [forgotten](KvCache::forget) or [cleared](KvCache::clear_prefix_cache) while it is pinned
/// cannot be matched any more: give the pin back and pin anew once the prefix has been computed again.
#[derive(Debug)]
#[must_use = "pinned blocks stay taken until the pin is given back"]
pub struct Pin {
    table: BlockTable,
}

impl Pin {
    /// The blocks, in the order of their tokens.
    #[must_use]
    pub fn blocks(&self) -> &[BlockId] {
        self.table.blocks()
    }

    /// Tokens in the pinned blocks.
    #[must_use]
    pub fn num_tokens(&self) -> u32 {
        self.table.num_tokens()
    }
}

impl KvCache {
    /// Pins the longest published prefix of these keys, in full blocks; promised blocks do not count, and neither do those
    /// that only the host tier holds. It is the caller's affair whether that is as long as wanted.
    ///
    /// # Errors
    /// If all pins together would hold more than [`max_pinned_blocks`](crate::KvCacheConfig::max_pinned_blocks). Blocks of
    /// several pins count for each of them. Then nothing has changed.
    ///
    /// # Panics
    /// If `keys` has another block size than the cache.
    pub fn pin(&mut self, keys: &PrefixKeys) -> Result<Pin, PinLimit> {
        assert_eq!(keys.block_size(), self.config.block_size, "keys are made for the cache's block size");
        let mut table = self.open_table();
        let mut parent = Parent::Salt(keys.salt());
        for (at, key) in keys.block_keys().iter().enumerate() {
            let node = self.index.find(parent, *key, keys.block_tokens(at));
            let Some(node) = node.filter(|node| self.index.node(*node).num_published > 0) else { break };
            table.blocks.extend(self.index.first_block(node));
            parent = Parent::Node(node);
        }
        let num_needed = table.blocks.len() as u32;
        let num_left = self.config.max_pinned_blocks - self.num_pinned_blocks;
        if num_needed > num_left {
            table.blocks.clear();
            self.release(table, None);
            return Err(PinLimit { num_needed, num_left });
        }
        for block in &table.blocks {
            self.reuse(*block);
        }
        self.num_pinned_blocks += num_needed;
        self.hold(&mut table);
        Ok(Pin { table })
    }

    /// Takes a pin back. Its blocks are cached again as after a table's [release](Self::release).
    pub fn unpin(&mut self, pin: Pin) {
        self.num_pinned_blocks -= pin.blocks().len() as u32;
        self.release(pin.table, None);
    }
}

/// More blocks would be pinned than may be. For the operator, or the client who asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PinLimit {
    /// Blocks that the pin needed.
    pub num_needed: u32,
    /// Blocks that may still be pinned.
    pub num_left: u32,
}

impl fmt::Display for PinLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KV blocks are to be pinned and {} may be", self.num_needed, self.num_left)
    }
}

impl core::error::Error for PinLimit {}
