//! The product of some rows with columns that lie apart, each 16 wide: attention scores, whose keys lie in blocks. Several
//! blocks are multiplied at a time, so that even for a single query there are sums enough to keep the multipliers busy while
//! each waits for its last one. Knows shapes, not their meaning.

use super::{Matrix, MatrixMut, Path};
#[cfg(target_arch = "x86_64")]
use crate::Instructions;
use crate::float::StoredNumber;
use crate::simd::VectorNumber;

/// Columns that lie together.
pub(crate) const COLUMN: usize = 16;

/// Sixteen columns of a matrix, and where their products go.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a, T> {
    /// `[k, 16]`, rows `panel_stride` apart
    pub(crate) panel: &'a [T],
    /// The first output column.
    pub(crate) to: usize,
}

/// `out[r][to + c] = sum over k, ascending, of x[r][k] * panel[k * panel_stride + c]`, each step one fused multiply-add, for
/// each of the columns.
pub(crate) struct ColumnsProduct<'a, S: StoredNumber> {
    /// `[rows, k]`
    pub(crate) x: Matrix<'a>,
    pub(crate) columns: &'a [Column<'a, S::Bits>],
    pub(crate) panel_stride: usize,
    pub(crate) out: MatrixMut<'a>,
}

impl<S: StoredNumber> ColumnsProduct<'_, S> {
    fn check(&self) {
        let k = self.x.cols();
        assert_eq!(self.x.rows(), self.out.rows());
        for column in self.columns {
            assert!(column.to + COLUMN <= self.out.cols(), "the products have room");
            assert!(k == 0 || (k - 1) * self.panel_stride + COLUMN <= column.panel.len(), "the panel has k rows");
        }
    }

    fn plain(&mut self) {
        for row in 0..self.x.rows() {
            for column in self.columns {
                for (c, out) in self.out.row_mut(row)[column.to..][..COLUMN].iter_mut().enumerate() {
                    let weights = column.panel.get(c..).unwrap_or_default().iter().step_by(self.panel_stride);
                    let products = self.x.row(row).iter().zip(weights);
                    *out = products.fold(0.0, |sum, (x, weight)| x.mul_add(S::to_f32(*weight), sum));
                }
            }
        }
    }
}

/// Computes the product.
pub(crate) fn columns_product<S: VectorNumber>(path: Path, mut op: ColumnsProduct<'_, S>) {
    op.check();
    match path.instructions() {
        // SAFETY: the path proves that the machine has these instructions.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { vector::product_avx2(op) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 | Instructions::Avx512Bf16 => unsafe { vector::product_avx512(op) },
        _ => op.plain(),
    }
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use super::{COLUMN, ColumnsProduct};
    use crate::simd::VectorNumber;
    use crate::simd::isa::{Avx2, Avx512, Isa};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn product_avx2<S: VectorNumber>(mut op: ColumnsProduct<'_, S>) {
        // SAFETY: this function has the features.
        unsafe {
            let row = rows::<Avx2, S, 6, 2>(&mut op, 0);
            let row = rows::<Avx2, S, 3, 4>(&mut op, row);
            rows::<Avx2, S, 1, 8>(&mut op, row);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn product_avx512<S: VectorNumber>(mut op: ColumnsProduct<'_, S>) {
        // SAFETY: this function has the features.
        unsafe {
            let row = rows::<Avx512, S, 12, 2>(&mut op, 0);
            let row = rows::<Avx512, S, 6, 4>(&mut op, row);
            let row = rows::<Avx512, S, 3, 4>(&mut op, row);
            rows::<Avx512, S, 1, 4>(&mut op, row);
        }
    }

    /// As many times `ROWS` rows as there are from `row` on, with `VECTORS` vectors of columns at a time. Returns the first
    /// row that is left.
    ///
    /// # Safety
    /// The machine has the instructions of `I`, and the shapes were checked.
    #[inline(always)]
    unsafe fn rows<I: Isa, S: VectorNumber, const ROWS: usize, const VECTORS: usize>(
        op: &mut ColumnsProduct<'_, S>,
        mut row: usize,
    ) -> usize {
        let num_vectors = op.columns.len() * (COLUMN / I::LANES);
        while row + ROWS <= op.x.rows() {
            let mut first = 0;
            // SAFETY: the rows and vectors are there; the rest is passed on to the caller.
            unsafe {
                while first + VECTORS <= num_vectors {
                    tile::<I, S, ROWS, VECTORS>(op, row, first);
                    first += VECTORS;
                }
                while first < num_vectors {
                    tile::<I, S, ROWS, 1>(op, row, first);
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
    unsafe fn tile<I: Isa, S: VectorNumber, const ROWS: usize, const VECTORS: usize>(
        op: &mut ColumnsProduct<'_, S>,
        row: usize,
        first: usize,
    ) {
        debug_assert!(row + ROWS <= op.x.rows());
        let per_column = COLUMN / I::LANES;
        let place = |v: usize| {
            let vector = first + v;
            (&op.columns[vector / per_column], vector % per_column * I::LANES)
        };
        let mut weights: [_; VECTORS] = core::array::from_fn(|v| {
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
        // SAFETY: the caller has the instructions; `check` proved that each panel has `k` rows and each column room in the
        // output, and the views prove that `x` and `out` have the rows.
        unsafe {
            let mut sums = [[I::splat(0.0); VECTORS]; ROWS];
            for k in 0..op.x.cols() {
                let loaded = weights.map(|weights| S::load::<I>(weights));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = I::splat(x.wrapping_add(r * x_stride + k).read());
                    for (sum, &weight) in sums.iter_mut().zip(&loaded) {
                        *sum = I::mul_add(x, weight, *sum);
                    }
                }
                weights = weights.map(|weights| weights.wrapping_add(op.panel_stride));
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (sum, to) in sums.into_iter().zip(to) {
                    I::store(out.wrapping_add(r * out_stride + to), sum);
                }
            }
        }
    }
}
