//! Stored weights on their way to a backend. Knows formats and row order, not tensor names.

use model_format::TensorFormat;

/// Rows of one stored matrix.
#[derive(Clone, Copy, Debug)]
pub struct WeightPart<'a> {
    /// `rows` stored rows, each `format.row_bytes(cols)` long.
    pub bytes: &'a [u8],
    /// How elements are stored.
    pub format: TensorFormat,
    /// Outputs of the product.
    pub rows: usize,
    /// Inputs of the product.
    pub cols: usize,
    /// Which stored row each row of the weight is.
    pub order: RowOrder,
}

/// How the rows of a projection are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowOrder {
    /// As the model wants them.
    Natural,
    /// Each head's rows alternate between the first and the second half of the rotary dimensions, as GGUF files of the
    /// `llama` architecture store query and key projections: stored row `2 i + h` of a head is row `i + h * head_dim / 2`.
    InterleavedHalves {
        /// Rows a head.
        head_dim: usize,
    },
}

impl RowOrder {
    /// The stored row that holds row `row` of the weight.
    #[must_use]
    pub fn stored_row(self, row: usize) -> usize {
        match self {
            Self::Natural => row,
            Self::InterleavedHalves { head_dim } => {
                let (head, i) = (row / head_dim, row % head_dim);
                let half = head_dim / 2;
                head * head_dim + 2 * (i % half) + i / half
            }
        }
    }
}

/// Elements that are a function of a seed and of their index in the matrix, row by row: uniform in `[-bound, bound)`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RandomElements {
    /// Chooses the function.
    pub seed: u64,
    /// Largest size of an element.
    pub bound: f32,
}

impl RandomElements {
    /// Element `index`: the upper 24 bits of SplitMix64 (Steele, Lea and Flood, 2014) at state `seed + index`.
    #[must_use]
    pub fn element(self, index: u64) -> f32 {
        let unit = (split_mix64(self.seed.wrapping_add(index)) >> 40) as f32 * (2.0 / (1_u64 << 24) as f32) - 1.0;
        self.bound * unit
    }
}

/// The output function of SplitMix64 at state `x`.
#[must_use]
pub fn split_mix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What a weight is used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WeightRole {
    /// [`matmul`](crate::Backend::matmul) only.
    Product,
    /// [`gated_matmul`](crate::Backend::gated_matmul): two parts of equal shape, gate and up.
    GatedProduct,
    /// [`embed`](crate::Backend::embed) only.
    Embedding,
    /// Both `embed` and `matmul`: an embedding that is also the output head.
    TiedEmbedding,
}

#[cfg(test)]
mod tests {
    use super::RowOrder;

    #[test]
    fn interleaved_halves_are_a_permutation_that_undoes_the_stored_order() {
        let order = RowOrder::InterleavedHalves { head_dim: 4 };
        // Stored: head 0 rows (0, 2), (1, 3) interleaved, so stored order is [0, 2, 1, 3] of the natural rows.
        let natural_of_stored = [0, 2, 1, 3, 4, 6, 5, 7];
        for row in 0..8 {
            assert_eq!(natural_of_stored[order.stored_row(row)], row);
        }
    }
}
