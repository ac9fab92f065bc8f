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
//! When no block is free, the cached block of least worth is taken: of least [`Retention`] (what tables ask for with
//! [`BlockTable::set_retention`]), and among equals the least recently used. Leaves go before parents, without any search:
//!
//! - *Retention never falls along the way up.* It belongs to a content, not to a block. A table that holds a block holds a
//!   block of every node above, and its release raises them all to at least what it asks for. A new node starts at the
//!   bottom. So a parent's retention is at least that of each child, and as it expires no earlier, this is true at any time.
//! - *Among equals the parent is the later one.* Blocks are released from the end of the table, so each comes behind those
//!   that continue it. When retentions end, [`KvCache::advance`] moves their blocks behind all of `Normal`, those with the
//!   nearer ends first, and those that waited together in the order in which they waited. A parent's retention ends no
//!   earlier than a child's: either it goes on, and the parent is worth more, or the parent is moved behind the child.
//! - *A copy in use does not age its original.* While a table computes a duplicate of cached blocks, its release counts as
//!   a use of those too, or a raised child could stay behind a parent that was worth more already.
//!
//! Retention is a wish. What must stay is [pinned](KvCache::pin): a [`Pin`] holds blocks like a table without a request,
//! and [`KvCacheConfig::max_pinned_blocks`] bounds how many.
//!
//! # The host tier
//!
//! With [`KvCacheConfig::num_host_blocks`] there is a second pool, in larger and slower memory. Full blocks are copied there
//! soon after they are filled ([`KvCache::offload`]), so that an eviction loses nothing and waits for nothing, and copied
//! back when a prompt asks for them ([`KvCache::fetch`]). Copies are planned here and done by whoever runs the steps. A
//! fetched block is promised like one that is computed: rows of the same step may share it, and a failed step withdraws it.
//! Whoever does copies beside the steps, and later than those, keeps rows away from a block until it has arrived, and keeps
//! order between whatever else meets at a block. An offload counts only once its step is retired as completed, and until then
//! no other copy gets its host block.
//!
//! A content is a node as long as either pool holds it. What the host tier holds, it holds with its whole prefix, and it
//! evicts in the same order as the pool does. So whatever is found there can be used.
//!
//! ```
//! # use kv_paging::*;
//! # let mut cache = KvCache::new(KvCacheConfig { num_host_blocks: 8, ..KvCacheConfig::new(2, 4) })?;
//! # let mut keys = PrefixKeys::new(&Salt::default(), 4);
//! # keys.extend(&[11, 12, 13, 14, 15, 16, 17, 18]);
//! # let Admission { mut table, .. } = cache.admit(&keys, keys.tokens());
//! # cache.grow(&mut table, 8)?;
//! # cache.promise(&table, &keys, 8, StepId(0));
//! # cache.retire(StepId(0), StepOutcome::Completed);
//! // Two blocks were filled. Step 1 copies them to the host tier; then others need the whole pool.
//! cache.offload(2, StepId(1));
//! let mut copies = Vec::new();
//! cache.drain_copies(|copy| copies.push(copy));
//! assert_eq!(copies.len(), 2);
//! cache.retire(StepId(1), StepOutcome::Completed);
//! cache.release(table, None);
//! let Admission { table: mut other, .. } = cache.admit(&PrefixKeys::new(&Salt::default(), 4), &[]);
//! cache.grow(&mut other, 8)?;
//! cache.release(other, None);
//!
//! // The prompt comes again. Its first block is copied back by step 2.
//! let Admission { mut table, num_cached_tokens } = cache.admit(&keys, keys.tokens());
//! assert_eq!(num_cached_tokens, 0);
//! assert_eq!(cache.fetch(&mut table, &keys, keys.tokens(), StepId(2)), 4);
//! # cache.retire(StepId(2), StepOutcome::Completed);
//! # cache.release(table, None);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```
//!
//! # Figures
//!
//! [`KvCache::usage`] says where the blocks are and what is wasted: slots of tables that hold no token yet, and blocks
//! whose content another block holds too. [`KvCache::stats`] counts what has happened: the hit rate; how old evicted blocks
//! became and how long cached ones waited for their next use, as [`Histogram`]s in steps; and regret, the blocks that had
//! to be computed again because they had been evicted. Regret tells whether more memory would help: a pool under pressure
//! whose evictions nobody regrets is large enough.
//!
//! # Costs
//!
//! Taking, giving back, matching and publishing a block are constant-time: intrusive lists in flat arrays and one hash
//! table of fixed size. All of it is allocated by [`KvCache::new`], about 210 bytes a block and four for each of its
//! tokens. Block tables are recycled, so serving allocates nothing once it has seen its peak. Equal calls give equal
//! answers: there is no randomness and no clock.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod cache;
mod config;
mod events;
mod eviction;
mod ghosts;
mod histogram;
mod host;
mod ids;
mod index;
mod invariants;
mod keys;
mod list;
mod pin;
mod pool;
mod promises;
mod retention;
mod siphash;
mod stats;
mod table;
mod tier;

pub use cache::{KvCache, OutOfBlocks};
pub use config::{ConfigError, KvCacheConfig, MAX_BLOCK_SIZE, MAX_BLOCKS, PrefixCaching};
pub use events::{CacheEvent, Tier};
pub use histogram::Histogram;
pub use ids::{BlockId, HostBlockId, StepId, StepOutcome, TokenId};
pub use keys::{BlockKey, PrefixKeys, Salt};
pub use pin::{Pin, PinLimit};
pub use retention::{LogicalTime, Retention};
pub use stats::{CacheStats, Usage};
pub use table::{Admission, BlockCopy, BlockTable};
pub use tier::TierCopy;

/// Compiles and runs the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
