//! Paged KV-cache bookkeeping: block pool, block tables, prefix cache and eviction, with no opinion on devices.
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
