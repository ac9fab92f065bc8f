//! What an op must move and compute, counted from its shape: every function here is plain arithmetic. Knows no backend and no
//! clock.
//!
//! Bytes are the least that any implementation moves: each input is read once, each output written once, weights as they are
//! stored; what is kept between the parts of a fused op is not counted. Those of weights, tables, keys and values come from
//! memory, since all other layers lie between two uses of one; those of activations, logits and norms stay in a cache from op to
//! op, if there is one that holds them. Operations are multiplications and additions, a multiply-add being two; comparisons,
//! roots and exponentials are left out, for the ops in which they matter are bound by bytes.

use std::ops::{Add, Mul};

use model_format::TensorFormat;
use tensor_backend::Element;

/// Bytes and operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cost {
    /// Of what lies in memory.
    pub(crate) memory_bytes: u64,
    /// Of what passes from op to op.
    pub(crate) cache_bytes: u64,
    pub(crate) operations: u64,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes + other.memory_bytes,
            cache_bytes: self.cache_bytes + other.cache_bytes,
            operations: self.operations + other.operations,
        }
    }
}

impl Mul<usize> for Cost {
    type Output = Self;

    fn mul(self, times: usize) -> Self {
        let times = times as u64;
        Self {
            memory_bytes: self.memory_bytes * times,
            cache_bytes: self.cache_bytes * times,
            operations: self.operations * times,
        }
    }
}

/// Elements of what lies between ops, and of the KV pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Elements {
    pub(crate) activation: Element,
    pub(crate) kv: Element,
}

/// A product of `rows` rows of `k` inputs with a weight of `n` rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Multiplied {
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) format: TensorFormat,
}

impl Multiplied {
    /// Weight and inputs; two operations for each element of the weight and each row.
    fn inputs(self, element: Element) -> Cost {
        let Self { rows, k, n, format } = self;
        let row_bytes = format.row_bytes(k).expect("a weight has whole blocks");
        stored(n * row_bytes) + values(rows * k, element) + operations(2 * rows * n * k)
    }
}

/// `[rows, k]` to `[rows, n]` of `out`.
pub(crate) fn product(product: Multiplied, element: Element, out: Element) -> Cost {
    product.inputs(element) + values(product.rows * product.n, out)
}

/// A product that is added to the residual stream, which is then normed: the stream is read and written, the norm written.
pub(crate) fn added_product(product: Multiplied, element: Element) -> Cost {
    let outputs = product.rows * product.n;
    product.inputs(element)
        + values(3 * outputs, element)
        + values(product.n, Element::F32)
        + operations(ADDED_NORM_OPERATIONS * outputs)
}

/// Gate and up, `n` rows together, to `n / 2` outputs: the gate's function and the product of both count as two operations.
pub(crate) fn gated_product(product: Multiplied, element: Element) -> Cost {
    let outputs = product.rows * product.n / 2;
    product.inputs(element) + values(outputs, element) + operations(2 * outputs)
}

/// Of each element: squared and added up, scaled by the root, scaled by the weight.
const NORM_OPERATIONS: usize = 4;

/// And added before.
const ADDED_NORM_OPERATIONS: usize = NORM_OPERATIONS + 1;

/// `rows` rows of `cols` are read and written, the norm's weight is read.
pub(crate) fn norm(rows: usize, cols: usize, element: Element) -> Cost {
    values(2 * rows * cols, element) + values(cols, Element::F32) + operations(NORM_OPERATIONS * rows * cols)
}

/// The same with a sum before it, whose second term and result are the residual stream.
pub(crate) fn added_norm(rows: usize, cols: usize, element: Element) -> Cost {
    values(4 * rows * cols, element) + values(cols, Element::F32) + operations(ADDED_NORM_OPERATIONS * rows * cols)
}

/// Rows of a table that become activations.
pub(crate) fn embed(rows: usize, cols: usize, format: TensorFormat, element: Element) -> Cost {
    let row_bytes = format.row_bytes(cols).expect("a table has whole blocks");
    stored(rows * row_bytes) + values(rows * cols, element)
}

/// Rows that are copied.
pub(crate) fn gather(rows: usize, cols: usize, element: Element) -> Cost {
    values(2 * rows * cols, element)
}

/// Logits that are looked at once.
pub(crate) fn sample(rows: usize, vocab: usize) -> Cost {
    values(rows * vocab, Element::F32)
}

/// Heads of an attention layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Heads {
    pub(crate) num_heads: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Heads {
    pub(crate) fn q_width(self) -> usize {
        self.num_heads * self.head_dim
    }

    pub(crate) fn kv_width(self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    pub(crate) fn qkv_width(self) -> usize {
        self.q_width() + 2 * self.kv_width()
    }
}

/// Queries and keys are read and written, six operations for each pair that is rotated; values are read; keys and values go
/// to the pool; each token has its row of cosines and sines.
pub(crate) fn rope_append(rows: usize, heads: Heads, elements: Elements) -> Cost {
    let rotated = rows * (heads.q_width() + heads.kv_width());
    let appended = 2 * rows * heads.kv_width();
    values(2 * rotated + rows * heads.kv_width(), elements.activation)
        + stored(appended * elements.kv.bytes())
        + values(rows * heads.head_dim, Element::F32)
        + operations(3 * rotated)
}

/// One row of an attention step: tokens that were there, and new ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AttentionRow {
    pub(crate) before: usize,
    pub(crate) new: usize,
}

/// Each row's keys and values are read once, its queries too, and each query's result is written. Of each head and each
/// position that a query sees, the score and the weighted value are `head_dim` multiply-adds each.
pub(crate) fn attention(rows: &[AttentionRow], heads: Heads, elements: Elements) -> Cost {
    let of_row = |&AttentionRow { before, new }: &AttentionRow| {
        // Token `i` of the new ones sees `before + i + 1` positions.
        let seen = new * before + new * (new + 1) / 2;
        stored(2 * (before + new) * heads.kv_width() * elements.kv.bytes())
            + values(2 * new * heads.q_width(), elements.activation)
            + operations(4 * seen * heads.q_width())
    };
    rows.iter().map(of_row).fold(Cost::default(), Add::add)
}

fn stored(bytes: usize) -> Cost {
    Cost { memory_bytes: bytes as u64, ..Cost::default() }
}

fn values(num: usize, element: Element) -> Cost {
    Cost { cache_bytes: (num * element.bytes()) as u64, ..Cost::default() }
}

fn operations(num: usize) -> Cost {
    Cost { operations: num as u64, ..Cost::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads { num_heads: 9, num_kv_heads: 3, head_dim: 64 };
    const ON_CPU: Elements = Elements { activation: Element::F32, kv: Element::BF16 };

    #[track_caller]
    fn check(cost: Cost, memory_bytes: u64, cache_bytes: u64, operations: u64) {
        assert_eq!(cost, Cost { memory_bytes, cache_bytes, operations });
    }

    #[test]
    fn products() {
        let of = |rows, format| Multiplied { rows, k: 64, n: 32, format };
        // 32 rows of two blocks of 20 bytes, 3 rows of 64 inputs, 3 rows of 32 outputs.
        let q4_1 = of(3, TensorFormat::Q4_1);
        check(product(q4_1, Element::F32, Element::F32), 32 * 40, 3 * 256 + 3 * 128, 2 * 3 * 32 * 64);
        let bf16 = of(1, TensorFormat::BF16);
        check(product(bf16, Element::BF16, Element::F32), 32 * 128, 128 + 128, 2 * 32 * 64);
        check(gated_product(q4_1, Element::F32), 32 * 40, 3 * 256 + 3 * 64, 2 * 3 * 32 * 64 + 2 * 3 * 16);
        // The residual stream in, out, and normed.
        check(added_product(q4_1, Element::F32), 32 * 40, 3 * 256 + 3 * 3 * 128 + 128, 2 * 3 * 32 * 64 + 5 * 3 * 32);
    }

    #[test]
    fn rows_of_activations() {
        check(norm(2, 10, Element::BF16), 0, 2 * 2 * 20 + 40, 4 * 20);
        check(added_norm(2, 10, Element::BF16), 0, 4 * 2 * 20 + 40, 5 * 20);
        check(gather(3, 10, Element::F32), 0, 2 * 3 * 40, 0);
        check(embed(3, 64, TensorFormat::Q8_0, Element::F32), 3 * 68, 3 * 256, 0);
        check(sample(2, 100), 0, 800, 0);
    }

    #[test]
    fn heads() {
        // One token: 576 queries and 192 keys in and out, 192 values in, 384 to the pool in half precision, a row of angles.
        check(rope_append(1, HEADS, ON_CPU), 384 * 2, (2 * 768 + 192) * 4 + 256, 3 * 768);
        // A decode row sees itself and the 99 before it.
        let decode = AttentionRow { before: 99, new: 1 };
        check(attention(&[decode], HEADS, ON_CPU), 100 * 384 * 2, 2 * 576 * 4, 4 * 100 * 576);
        // Three tokens after ten see 11, 12 and 13 positions.
        let chunk = AttentionRow { before: 10, new: 3 };
        check(attention(&[chunk], HEADS, ON_CPU), 13 * 384 * 2, 3 * 2 * 576 * 4, 4 * 36 * 576);
        let both = attention(&[decode], HEADS, ON_CPU) + attention(&[chunk], HEADS, ON_CPU);
        assert_eq!(attention(&[decode, chunk], HEADS, ON_CPU), both);
        assert_eq!(attention(&[decode; 5], HEADS, ON_CPU), attention(&[decode], HEADS, ON_CPU) * 5);
    }
}
