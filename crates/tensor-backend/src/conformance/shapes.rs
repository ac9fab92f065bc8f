//! The cases of the suite, as data. Adding one costs a line.

/// A product: `rows` of `k` inputs to `n` outputs.
#[derive(Clone, Copy, Debug)]
pub struct ProductShape {
    /// Rows of activations.
    pub rows: usize,
    /// Inputs; rounded up to whole blocks of the format.
    pub k: usize,
    /// Outputs.
    pub n: usize,
}

const fn product(rows: usize, k: usize, n: usize) -> ProductShape {
    ProductShape { rows, k, n }
}

/// Shapes of plain and gated products.
pub const PRODUCTS: [ProductShape; 14] = [
    product(1, 32, 1),
    product(1, 64, 16),
    product(1, 576, 33),
    product(2, 256, 15),
    product(3, 96, 48),
    product(5, 160, 31),
    product(7, 32, 100),
    product(8, 512, 17),
    product(13, 224, 64),
    product(33, 64, 65),
    product(37, 288, 7),
    product(70, 96, 40),
    product(9, 128, 90),
    product(17, 192, 47),
];

/// Columns of norms and embeddings.
pub const ROW_WIDTHS: [usize; 6] = [1, 7, 32, 48, 576, 1001];

/// Heads of an attention layer and the blocks of its KV pool.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Query heads.
    pub num_heads: usize,
    /// Key-value heads.
    pub num_kv_heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// Positions a token sees.
    pub sliding_window: Option<usize>,
}

const fn heads(num_heads: usize, num_kv_heads: usize, head_dim: usize, block_size: usize) -> AttentionShape {
    AttentionShape { num_heads, num_kv_heads, head_dim, block_size, sliding_window: None }
}

const fn window(shape: AttentionShape, sliding_window: usize) -> AttentionShape {
    AttentionShape { sliding_window: Some(sliding_window), ..shape }
}

/// Shapes of attention.
pub const ATTENTION: [AttentionShape; 14] = [
    heads(9, 3, 64, 16),
    heads(4, 4, 64, 16),
    heads(8, 1, 128, 16),
    heads(32, 2, 128, 32),
    heads(6, 2, 80, 16),
    heads(3, 1, 96, 1),
    heads(2, 2, 64, 3),
    heads(4, 1, 64, 7),
    heads(2, 1, 64, 256),
    heads(14, 2, 6, 24),
    window(heads(9, 3, 64, 16), 1),
    window(heads(4, 2, 64, 16), 20),
    window(heads(4, 1, 80, 5), 130),
    window(heads(2, 1, 128, 64), 1000),
];

/// Rows of one attention step: (tokens already there, new tokens).
pub const ATTENTION_STEPS: [&[(usize, usize)]; 7] = [
    &[(0, 1)],
    &[(0, 17)],
    &[(5, 1), (0, 3), (40, 1)],
    &[(130, 1), (127, 1), (128, 1), (255, 2)],
    &[(0, 40), (90, 13), (16, 16)],
    &[(250, 30)],
    &[(3, 12), (0, 1), (15, 2), (299, 1), (1, 25)],
];
