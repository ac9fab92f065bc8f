//! Elements and the shape of the KV pool. Knows sizes, not where memory comes from.

/// Element of activations.
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

/// Element of the KV pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum KvElement {
    /// Every element is a float.
    Float(Element),
    /// Every element is a signed byte, and each head of a token has one f32 scale for its keys and one for its values.
    ///
    /// With `m` the largest magnitude of the head, its scale is `m / 127` and an element `x` becomes the integer nearest to
    /// `x * (127 / m)`, ties to even, all in f32. A head with `m <= 1e-36`, whose inverse would overflow, is taken as zeros;
    /// one with a NaN or an infinity is NaN as a whole. What a token's keys and values become depends on nothing else.
    Int8,
}

impl KvElement {
    /// Bytes of one head's keys, or values, of a token.
    #[must_use]
    pub fn head_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::Float(element) => head_dim * element.bytes(),
            Self::Int8 => head_dim + Element::F32.bytes(),
        }
    }
}

impl From<Element> for KvElement {
    fn from(element: Element) -> Self {
        Self::Float(element)
    }
}

/// Shape of the KV pool: `[layers][key, value][blocks]` of `block_size * num_kv_heads` heads of `head_dim` elements. The
/// order inside a block is the backend's own.
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
    pub element: KvElement,
}

impl KvLayout {
    /// Bytes of one block over all layers, keys and values.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        let num_heads = self.num_layers * self.block_size * self.num_kv_heads;
        2 * (num_heads * self.element.head_bytes(self.head_dim)) as u64
    }

    /// Bytes of the pool.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.block_bytes() * self.num_blocks as u64
    }
}
