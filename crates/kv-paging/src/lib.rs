//! Paged KV-cache bookkeeping: block pool, block tables, prefix cache and eviction, with no opinion on devices.
//!
//! An LLM server keeps keys and values of past tokens in blocks of a fixed number of slots. [`KvCache`] decides which block
//! holds which tokens. It moves no memory, knows no device and no bytes, reads no clock and starts no thread: it hands
//! out block ids and keeps them honest.
//!
//! ```
//! use kv_paging::*;
//!
//! let mut cache = KvCache::new(KvCacheConfig::new(8, 4))?;
//! let prompt = [11, 12, 13, 14, 15, 16];
//! let mut keys = PrefixKeys::new(&Salt::default(), 4);
//! keys.extend(&prompt);
//!
//! // Plan step 0: nothing is cached, so six tokens are computed, and the first block will be full.
//! let Admission { mut table, num_cached_tokens } = cache.admit(&keys, &prompt);
//! assert_eq!(num_cached_tokens, 0);
//! cache.grow(&mut table, 6)?;
//! cache.promise(&table, &keys, 6, StepId(0));
//!
//! // The same prompt again, in the same step: it shares that block, and computes the rest.
//! let Admission { table: other, num_cached_tokens } = cache.admit(&keys, &prompt);
//! assert_eq!(num_cached_tokens, 4);
//! assert_eq!(other.blocks()[0], table.blocks()[0]);
//!
//! cache.retire(StepId(0), StepOutcome::Completed);
//! cache.release(table, None);
//! cache.release(other, None);
//! assert_eq!(cache.num_free(), 8); // one of them cached
//! assert_eq!(cache.usage().cached, 1);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # The life of a block
//!
//! ```text
//!              grow, fork                release, no step in flight names it
//!     free ───────────────► active ──────────────────────────────────────────► cached, if published
//!      ▲                     │  ▲ admit                                   ┌──►  else free
//!      │                     │  └──────────────────────────── cached       │
//!      │                     └── release after a step ──► in transit ──────┘
//!      │                                  that step is retired
//!      └───────────────── evicted when no block is free ───── cached
//! ```
//!
//! Every block is in exactly one of these places. It is active while a live [`BlockTable`] holds it; the reference count is
//! the number of those tables. A table can only be made by the cache and only be consumed by it, so a block cannot be
//! freed twice, and one that is lost is found by [`KvCache::check_invariants`].
//!
//! # Steps and promises
//!
//! The caller plans a step, runs it, and retires it, perhaps planning the next ones meanwhile. A block that a planned step
//! will fill is *promised*: rows of the same and of later steps may share it at once, since a model appends the keys and
//! values of a whole batch before any row attends. When the step is [retired](KvCache::retire) as completed, the block is
//! *published*: full, and never written again. When the step failed, the promise is *withdrawn*, with every later promise
//! that may rest on it, and [`KvCache::is_withdrawn`] tells which tables hold such a block. What is found to be bad later, in
//! one sequence only, is taken out of the index with [`KvCache::forget`].
//!
//! Device work outlives the plan, so [`KvCache::release`] and [`KvCache::truncate`] take the last step that names the
//! blocks. Until that step is retired the blocks are in transit: not takeable, though still shareable.
//!
//! # Why a hit can be trusted
//!
//! The index is a tree. A node is the content of one full block: its tokens, and as its parent another node or, for the
//! first block of a sequence, the tenant's [`Salt`]. A 128-bit keyed hash ([`BlockKey`]) says where in the hash table to
//! look. The hit itself is decided by comparing the tokens with the stored ones, and the parent with the node (or salt)
//! that the walk has just come from. By induction from the root, a matched node has the same salt, and token for token the
//! same prefix: a hash collision costs a comparison and can never make a hit. A node stays where it is until all nodes
//! below it are gone, so an identity that was compared cannot have been reused for something else.
//!
//! A request with one tenant's salt therefore cannot reach a block of another tenant, whatever its tokens. It cannot even
//! learn from timing that such a block exists, except through the shared pool's pressure.
//!
//! # Duplicates
//!
//! Requests that compute the same tokens side by side (a prompt of exactly some number of blocks is never matched whole)
//! end with equal blocks. Both keep their own, because the device already writes to them, and both are blocks of one node:
//! everything after them is shared. As soon as a duplicate is released, it is freed; no content is cached twice.
//!
//! # Eviction
//!
//! When no block is free, the least recently used cached block is taken. A table's blocks are released from its end, and a
//! table that holds a block holds a block of every node above, so in the order of release a block always comes before
//! those of its prefix: leaves go first, without any search.
//!
//! # Costs
//!
//! Taking, giving back, matching and publishing a block are constant-time: intrusive lists in flat arrays and one hash
//! table of fixed size. All of it is allocated by [`KvCache::new`], about 190 bytes a block and four for each of its
//! tokens. Block tables are recycled, so serving allocates nothing once it has seen its peak. Equal calls give equal answers: there is
//! no randomness and no clock.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod cache;
mod config;
mod events;
mod ids;
mod index;
mod invariants;
mod keys;
mod list;
mod pool;
mod promises;
mod siphash;
mod stats;
mod table;

pub use cache::{KvCache, OutOfBlocks};
pub use config::{ConfigError, KvCacheConfig, MAX_BLOCK_SIZE, MAX_BLOCKS, PrefixCaching};
pub use events::CacheEvent;
pub use ids::{BlockId, StepId, StepOutcome, TokenId};
pub use keys::{BlockKey, PrefixKeys, Salt};
pub use stats::{CacheStats, Usage};
pub use table::{Admission, BlockCopy, BlockTable};

/// Compiles and runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
