//! What a cache is made from, and why it may be refused. Knows no bytes: how many blocks fit a device is the caller's sum.

use core::fmt;

/// Most blocks of one pool. At 16 tokens a block this is 2^30 tokens, more than any machine holds.
pub const MAX_BLOCKS: u32 = 1 << 26;

/// Most tokens of one block.
pub const MAX_BLOCK_SIZE: u32 = 256;

/// Shape and behaviour of a [`KvCache`](crate::KvCache).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvCacheConfig {
    /// Blocks of the pool, `1..=`[`MAX_BLOCKS`].
    pub num_blocks: u32,
    /// Tokens a block holds: a power of two, `1..=`[`MAX_BLOCK_SIZE`]. 16 is a good default: long blocks leave slots
    /// empty, short ones make long tables.
    pub block_size: u32,
    /// Whether full blocks are shared between tables with the same prefix.
    pub prefix_caching: PrefixCaching,
    /// Blocks that all [pins](crate::KvCache::pin) together may hold; by default none. They are lost to tables, so leave
    /// room for the longest request.
    pub max_pinned_blocks: u32,
    /// Blocks of the host tier, a second pool in slower memory to which full blocks are copied, at most [`MAX_BLOCKS`]; by
    /// default none. Of use from about as many as `num_blocks` on: it holds what the first pool holds, and more. Nothing
    /// is copied with prefix caching off.
    pub num_host_blocks: u32,
    /// How many evictions back one may be [regretted](crate::CacheStats::num_regretted_blocks); by default as many as there
    /// are blocks. One in eight is remembered, in up to 64 bytes.
    pub regret_window: u32,
}

impl KvCacheConfig {
    /// A pool of this shape with everything else as by default. Fields to come have defaults too, so start from here:
    /// `KvCacheConfig { prefix_caching: PrefixCaching::Off, ..KvCacheConfig::new(64, 16) }`.
    #[must_use]
    pub const fn new(num_blocks: u32, block_size: u32) -> Self {
        Self {
            num_blocks,
            block_size,
            prefix_caching: PrefixCaching::On,
            max_pinned_blocks: 0,
            num_host_blocks: 0,
            regret_window: num_blocks,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.num_blocks == 0 || self.num_blocks > MAX_BLOCKS {
            return Err(ConfigError::NumBlocks(self.num_blocks));
        }
        if !is_block_size(self.block_size) {
            return Err(ConfigError::BlockSize(self.block_size));
        }
        if self.regret_window > MAX_BLOCKS {
            return Err(ConfigError::RegretWindow(self.regret_window));
        }
        if self.num_host_blocks > MAX_BLOCKS {
            return Err(ConfigError::NumHostBlocks(self.num_host_blocks));
        }
        if self.max_pinned_blocks > self.num_blocks {
            return Err(ConfigError::MaxPinnedBlocks(self.max_pinned_blocks));
        }
        Ok(())
    }
}

pub(crate) fn is_block_size(block_size: u32) -> bool {
    block_size.is_power_of_two() && block_size <= MAX_BLOCK_SIZE
}

/// Whether full blocks are kept and shared by prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PrefixCaching {
    /// Full blocks are indexed by prefix, shared, and kept after release until their memory is needed.
    #[default]
    On,
    /// Every table has its own blocks (forks still share), and a released block is free.
    Off,
}

/// A refused [`KvCacheConfig`]. For the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// The number of blocks, which is zero or above [`MAX_BLOCKS`].
    NumBlocks(u32),
    /// The block size in tokens, which is no power of two or above [`MAX_BLOCK_SIZE`].
    BlockSize(u32),
    /// The number of blocks of the host tier, which is above [`MAX_BLOCKS`].
    NumHostBlocks(u32),
    /// The bound of pinned blocks, which is above the number of blocks.
    MaxPinnedBlocks(u32),
    /// The number of remembered evictions, which is above [`MAX_BLOCKS`].
    RegretWindow(u32),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NumBlocks(given) => write!(f, "num_blocks must be in 1..={MAX_BLOCKS}, not {given}"),
            Self::BlockSize(given) => {
                write!(f, "block_size must be a power of two in 1..={MAX_BLOCK_SIZE}, not {given}")
            }
            Self::NumHostBlocks(given) => write!(f, "num_host_blocks must be at most {MAX_BLOCKS}, not {given}"),
            Self::RegretWindow(given) => write!(f, "regret_window must be at most {MAX_BLOCKS}, not {given}"),
            Self::MaxPinnedBlocks(given) => write!(f, "max_pinned_blocks must be at most num_blocks, not {given}"),
        }
    }
}

impl core::error::Error for ConfigError {}
