//! The product of some rows with columns that lie apart, each 16 wide: attention scores, whose keys lie in blocks. Several
//! blocks are multiplied at a time, so that even for a single query there are sums enough to keep the multipliers busy while
//! each waits for its last one. Knows shapes, not their meaning.

use super::{Matrix, MatrixMut, Operand, Path, Start};
#[cfg(target_arch = "x86_64")]
use crate::Instructions;

/// Columns that lie together.
pub(crate) const COLUMN: usize = 16;

/// Sixteen columns of a matrix, and where their products go.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a, W> {
    /// `[k, 16]`, rows `panel_stride` words apart
    pub(crate) panel: &'a [W],
    /// The first output column.
    pub(crate) to: usize,
}

/// `out[r][to + c] = start + sum over k, ascending, of x[r][k] * panel[k][c]`, each step one fused multiply-add, for each of
/// the columns.
pub(crate) struct ColumnsProduct<'a, S: Operand> {
    /// `[rows, k]`
    pub(crate) x: Matrix<'a, S::X>,
    pub(crate) columns: &'a [Column<'a, S::Word>],
    pub(crate) panel_stride: usize,
    pub(crate) start: Start,
    pub(crate) out: MatrixMut<'a>,
}

impl<S: Operand> ColumnsProduct<'_, S> {
    fn check(&self, path: Path) {
        assert_eq!(self.x.rows(), self.out.rows());
        assert!(self.x.cols().is_multiple_of(S::x_per_word(path)));
        let words = self.x.cols() / S::x_per_word(path);
        for column in self.columns {
            assert!(column.to + COLUMN <= self.out.cols(), "the products have room");
            let len = words.saturating_sub(1) * self.panel_stride + COLUMN;
            assert!(len <= column.panel.len(), "the panel has k rows");
        }
    }

    fn plain(&mut self, path: Path) {
        for row in 0..self.x.rows() {
            for column in self.columns {
                for (c, out) in self.out.row_mut(row)[column.to..][..COLUMN].iter_mut().enumerate() {
                    let words = column.panel[c..].iter().step_by(self.panel_stride);
                    let x = self.x.row(row).chunks_exact(S::x_per_word(path));
                    *out = x.zip(words).fold(self.start.value(*out), |sum, (x, word)| S::multiply_add(sum, *word, x));
                }
            }
        }
    }
}

/// Computes the product.
pub(crate) fn columns_product<S: Operand>(path: Path, mut op: ColumnsProduct<'_, S>) {
    op.check(path);
    match path.instructions() {
        // SAFETY: the path proves that the machine has these instructions.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { vector::product_avx2(op) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => unsafe { vector::product_avx512(op) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512Bf16 => unsafe { vector::product_avx512_bf16(op) },
        _ => op.plain(path),
    }
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use super::{COLUMN, ColumnsProduct, Start};
    use crate::simd::Operand;
    use crate::simd::isa::Isa;
    use crate::simd::operand::{MultiplyAdd, accumulate};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn product_avx2<S: Operand>(mut op: ColumnsProduct<'_, S>) {
        // SAFETY: this function has the features.
        unsafe {
            let row = rows::<S, S::Avx2, 6, 2>(&mut op, 0);
            let row = rows::<S, S::Avx2, 3, 4>(&mut op, row);
            rows::<S, S::Avx2, 1, 8>(&mut op, row);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn product_avx512<S: Operand>(op: ColumnsProduct<'_, S>) {
        // SAFETY: this function has the features.
        unsafe { product_of_16_lanes::<S, S::Avx512>(op) }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
    pub(super) fn product_avx512_bf16<S: Operand>(op: ColumnsProduct<'_, S>) {
        // SAFETY: this function has the features.
        unsafe { product_of_16_lanes::<S, S::Avx512Bf16>(op) }
    }

    /// # Safety
    /// The machine has the instructions of `M`, and the shapes were checked.
    #[inline(always)]
    unsafe fn product_of_16_lanes<S, M>(mut op: ColumnsProduct<'_, S>)
    where
        S: Operand,
        M: MultiplyAdd<Word = S::Word, X = S::X>,
    {
        // SAFETY: passed on to the caller.
        unsafe {
            let row = rows::<S, M, 12, 2>(&mut op, 0);
            let row = rows::<S, M, 6, 4>(&mut op, row);
            let row = rows::<S, M, 3, 4>(&mut op, row);
            rows::<S, M, 1, 4>(&mut op, row);
        }
    }

    /// As many times `ROWS` rows as there are from `row` on, with `VECTORS` vectors of columns at a time. Returns the first
    /// row that is left.
    ///
    /// # Safety
    /// The machine has the instructions of `M`, and the shapes were checked.
    #[inline(always)]
    unsafe fn rows<S, M, const ROWS: usize, const VECTORS: usize>(
        op: &mut ColumnsProduct<'_, S>,
        mut row: usize,
    ) -> usize
    where
        S: Operand,
        M: MultiplyAdd<Word = S::Word, X = S::X>,
    {
        let num_vectors = op.columns.len() * (COLUMN / M::Isa::LANES);
        while row + ROWS <= op.x.rows() {
            let mut first = 0;
            // SAFETY: the rows and vectors are there; the rest is passed on to the caller.
            unsafe {
                while first + VECTORS <= num_vectors {
                    tile::<S, M, ROWS, VECTORS>(op, row, first);
                    first += VECTORS;
                }
                while first < num_vectors {
                    tile::<S, M, ROWS, 1>(op, row, first);
                    first += 1;
                }
            }
            row += ROWS;
        }
        row
    }

    /// `ROWS` rows by `VECTORS` vectors, whose sums stay in registers. Vectors are counted through all columns.
    ///
    /// # Safety
    /// As for [`rows`], and there are rows `row .. row + ROWS` and vectors `first .. first + VECTORS`.
    #[inline(always)]
    unsafe fn tile<S, M, const ROWS: usize, const VECTORS: usize>(
        op: &mut ColumnsProduct<'_, S>,
        row: usize,
        first: usize,
    ) where
        S: Operand,
        M: MultiplyAdd<Word = S::Word, X = S::X>,
    {
        debug_assert!(row + ROWS <= op.x.rows());
        let per_column = COLUMN / M::Isa::LANES;
        let place = |v: usize| {
            let vector = first + v;
            (&op.columns[vector / per_column], vector % per_column * M::Isa::LANES)
        };
        let words: [_; VECTORS] = core::array::from_fn(|v| {
            let (column, offset) = place(v);
            column.panel.as_ptr().wrapping_add(offset)
        });
        let to: [_; VECTORS] = core::array::from_fn(|v| {
            let (column, offset) = place(v);
            column.to + offset
        });
        let (x_stride, out_stride) = (op.x.stride(), op.out.stride());
        let x = op.x.as_ptr().wrapping_add(row * x_stride);
        let out = op.out.as_mut_ptr().wrapping_add(row * out_stride);
        let len = op.x.cols() / M::PARTS;
        // SAFETY: the caller has the instructions; `check` proved that each panel has a row for all words of `x` and each
        // column room in the output, and the views prove that `x` and `out` have the rows.
        unsafe {
            let mut sums = [[M::Isa::splat(0.0); VECTORS]; ROWS];
            if op.start == Start::Out {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (sum, to) in sums.iter_mut().zip(to) {
                        *sum = M::Isa::load(out.wrapping_add(r * out_stride + to));
                    }
                }
            }
            sums = accumulate::<M, ROWS, VECTORS>(sums, (x, x_stride), words, op.panel_stride, len);
            for (r, sums) in sums.into_iter().enumerate() {
                for (sum, to) in sums.into_iter().zip(to) {
                    M::Isa::store(out.wrapping_add(r * out_stride + to), sum);
                }
            }
        }
    }
}
