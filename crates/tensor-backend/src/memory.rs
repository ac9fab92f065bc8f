//! Elements and the shape of the KV pool. Knows sizes, not where memory comes from.

/// Element of activations and of the KV pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Element {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
}

impl Element {
    /// Size of one element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }
}

/// Shape of the KV pool: `[layers][key, value][blocks]` of `block_size * num_kv_heads * head_dim` elements. The order
/// inside a block is the backend's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvLayout {
    /// Layers of the model.
    pub num_layers: usize,
    /// Blocks of the pool.
    pub num_blocks: usize,
    /// Tokens a block.
    pub block_size: usize,
    /// Key-value heads.
    pub num_kv_heads: usize,
    /// Elements a head.
    pub head_dim: usize,
    /// Stored element.
    pub element: Element,
}

impl KvLayout {
    /// Bytes of one block over all layers, keys and values.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        2 * (self.num_layers * self.block_size * self.num_kv_heads * self.head_dim * self.element.bytes()) as u64
    }

    /// Bytes of the pool.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.block_bytes() * self.num_blocks as u64
    }
}
