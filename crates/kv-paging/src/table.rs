//! Block tables: which blocks hold a sequence's tokens, in order. A handle; all changes go through the cache.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::{BlockId, Retention};

/// The blocks that hold one sequence's tokens: token `t` lives in block `t / block_size`, slot `t % block_size`.
///
/// ```text
/// tokens  0 ............................. num_tokens
///         [ full blocks, perhaps shared )[ own, partly filled )
/// ```
///
/// Made by [`KvCache::admit`](crate::KvCache::admit) or [`KvCache::fork`](crate::KvCache::fork) and given back by
/// [`KvCache::release`](crate::KvCache::release), which consumes it, so no block is released twice. A table dropped
/// without release leaks its blocks, which [`KvCache::check_invariants`](crate::KvCache::check_invariants) finds.
///
/// ```compile_fail,E0382
/// # use kv_paging::*;
/// # fn twice(cache: &mut KvCache, table: BlockTable) {
/// cache.release(table, None);
/// cache.release(table, None); // the table is gone
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a table's blocks stay taken until the table is released"]
pub struct BlockTable {
    pub(crate) blocks: Vec<BlockId>,
    pub(crate) num_tokens: u32,
    /// How often the prefix cache had been cleared when the table was made. What was computed before a clearing is never
    /// shared after it.
    pub(crate) generation: u64,
    /// What its release asks for.
    pub(crate) retention: Retention,
    /// A clone of the cache's own handle: counts the live tables and tells the tables of two caches apart.
    pub(crate) owner: Arc<()>,
}

impl BlockTable {
    /// The blocks, in the order of the tokens. Kernels read through this.
    #[must_use]
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Tokens that the table has room for by request: the largest count grown to, less what was truncated.
    #[must_use]
    pub fn num_tokens(&self) -> u32 {
        self.num_tokens
    }

    /// Says how long the blocks are to be kept once the table is released; [`Retention::Normal`] if nothing is said. A fork
    /// starts with the same.
    pub fn set_retention(&mut self, retention: Retention) {
        self.retention = retention;
    }
}

/// What [`KvCache::admit`](crate::KvCache::admit) found.
#[derive(Debug)]
#[must_use = "a table's blocks stay taken until the table is released"]
pub struct Admission {
    /// Holds the matched blocks and nothing else.
    pub table: BlockTable,
    /// Tokens in the matched blocks: prefill starts at this position.
    pub num_cached_tokens: u32,
}

/// A block to be copied whole, before anything else of the step that first writes the fork.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockCopy {
    /// Block read.
    pub from: BlockId,
    /// Block written.
    pub to: BlockId,
}
