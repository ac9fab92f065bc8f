//! The product of some rows with a row-major panel of stored numbers: the inner loop of float weights, of attention scores
//! and of weighted values. Knows shapes, not their meaning.

use super::{Matrix, MatrixMut, Path};
#[cfg(target_arch = "x86_64")]
use crate::Instructions;
use crate::float::StoredNumber;

/// What a chain of multiply-adds starts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    /// Zero.
    Zero,
    /// The output's own value.
    Out,
}

/// `out[r][c] = start + sum over k, ascending, of x[r][k] * panel[k * panel_stride + c]`, each step one fused multiply-add.
pub(crate) struct TileProduct<'a, S: StoredNumber> {
    /// `[rows, k]`
    pub(crate) x: Matrix<'a>,
    /// `[k, cols]`, rows `panel_stride` apart
    pub(crate) panel: &'a [S::Bits],
    pub(crate) panel_stride: usize,
    pub(crate) start: Start,
    /// `[rows, cols]`
    pub(crate) out: MatrixMut<'a>,
}

impl<S: StoredNumber> TileProduct<'_, S> {
    fn check(&self) {
        let (k, cols) = (self.x.cols(), self.out.cols());
        assert_eq!(self.x.rows(), self.out.rows());
        assert!(k == 0 || (k - 1) * self.panel_stride + cols <= self.panel.len(), "the panel has k rows");
    }

    /// Columns `from ..`, plainly.
    fn plain(&mut self, from: usize) {
        for row in 0..self.x.rows() {
            let x = self.x.row(row);
            for (col, out) in self.out.row_mut(row).iter_mut().enumerate().skip(from) {
                let start = if self.start == Start::Zero { 0.0 } else { *out };
                let column = self.panel.get(col..).unwrap_or_default().iter().step_by(self.panel_stride);
                *out = x.iter().zip(column).fold(start, |sum, (x, weight)| x.mul_add(S::to_f32(*weight), sum));
            }
        }
    }
}

/// Computes the product.
pub(crate) fn tile_product<S: VectorNumber>(path: Path, mut tile: TileProduct<'_, S>) {
    tile.check();
    match path.instructions() {
        // SAFETY: the path proves that the machine has these instructions.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { vector::product_avx2(tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 | Instructions::Avx512Bf16 => unsafe { vector::product_avx512(tile) },
        _ => tile.plain(0),
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use crate::float::StoredNumber as VectorNumber;
#[cfg(target_arch = "x86_64")]
pub(crate) use vector::VectorNumber;

#[cfg(target_arch = "x86_64")]
mod vector {
    use super::{Start, TileProduct};
    use crate::float::{Brain, Byte, Half, Single, StoredNumber};
    use crate::simd::isa::{Avx2, Avx512, Isa};

    /// Elements that can be loaded into vectors.
    pub(crate) trait VectorNumber: StoredNumber {
        /// `I::LANES` elements as f32.
        ///
        /// # Safety
        /// The machine has the instructions of `I`, and `from` is valid for `I::LANES` elements.
        unsafe fn load<I: Isa>(from: *const Self::Bits) -> I::Float;
    }

    impl VectorNumber for Single {
        #[inline(always)]
        unsafe fn load<I: Isa>(from: *const f32) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { I::load(from) }
        }
    }

    impl VectorNumber for Half {
        #[inline(always)]
        unsafe fn load<I: Isa>(from: *const u16) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { I::load_half(from) }
        }
    }

    impl VectorNumber for Brain {
        #[inline(always)]
        unsafe fn load<I: Isa>(from: *const u16) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { I::load_brain(from) }
        }
    }

    impl VectorNumber for Byte {
        #[inline(always)]
        unsafe fn load<I: Isa>(from: *const i8) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { I::to_float(I::load_i8(from)) }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn product_avx2<S: VectorNumber>(tile: TileProduct<'_, S>) {
        // SAFETY: this function has the features.
        unsafe { product::<Avx2, S>(tile) }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn product_avx512<S: VectorNumber>(tile: TileProduct<'_, S>) {
        // SAFETY: this function has the features.
        unsafe { product::<Avx512, S>(tile) }
    }

    /// All rows: tiles as high as the registers allow, then lower ones.
    ///
    /// # Safety
    /// The machine has the instructions of `I`, and the tile's shapes were checked.
    #[inline(always)]
    unsafe fn product<I: Isa, S: VectorNumber>(mut tile: TileProduct<'_, S>) {
        let rows = tile.x.rows();
        let mut row = 0;
        // SAFETY: passed on to the caller.
        unsafe {
            while I::TILE_ROWS >= 12 && row + 12 <= rows {
                columns::<I, S, 12, 2>(&mut tile, row);
                row += 12;
            }
            while row + 6 <= rows {
                columns::<I, S, 6, 2>(&mut tile, row);
                row += 6;
            }
            while row + 3 <= rows {
                columns::<I, S, 3, 4>(&mut tile, row);
                row += 3;
            }
            while row < rows {
                columns::<I, S, 1, 4>(&mut tile, row);
                row += 1;
            }
        }
        let whole_vectors = tile.out.cols() / I::LANES * I::LANES;
        if whole_vectors < tile.out.cols() {
            tile.plain(whole_vectors);
        }
    }

    /// `ROWS` rows from `row` on, in whole vectors of columns.
    ///
    /// # Safety
    /// As for [`product`], and the tile has the rows.
    #[inline(always)]
    unsafe fn columns<I: Isa, S: VectorNumber, const ROWS: usize, const VECTORS: usize>(
        tile: &mut TileProduct<'_, S>,
        row: usize,
    ) {
        let cols = tile.out.cols();
        let mut col = 0;
        // SAFETY: the columns are inside of the tile; the rest is passed on to the caller.
        unsafe {
            while col + VECTORS * I::LANES <= cols {
                vectors::<I, S, ROWS, VECTORS>(tile, row, col);
                col += VECTORS * I::LANES;
            }
            while VECTORS > 2 && col + 2 * I::LANES <= cols {
                vectors::<I, S, ROWS, 2>(tile, row, col);
                col += 2 * I::LANES;
            }
            while col + I::LANES <= cols {
                vectors::<I, S, ROWS, 1>(tile, row, col);
                col += I::LANES;
            }
        }
    }

    /// `ROWS` rows by `VECTORS` vectors, whose sums stay in registers.
    ///
    /// # Safety
    /// As for [`product`], and the tile has rows `row .. row + ROWS` and columns `col .. col + VECTORS * I::LANES`.
    #[inline(always)]
    unsafe fn vectors<I: Isa, S: VectorNumber, const ROWS: usize, const VECTORS: usize>(
        tile: &mut TileProduct<'_, S>,
        row: usize,
        col: usize,
    ) {
        debug_assert!(row + ROWS <= tile.x.rows());
        debug_assert!(col + VECTORS * I::LANES <= tile.out.cols());
        let (x_stride, out_stride) = (tile.x.stride(), tile.out.stride());
        let x = tile.x.as_ptr().wrapping_add(row * x_stride);
        let out = tile.out.as_mut_ptr().wrapping_add(row * out_stride + col);
        let mut panel = tile.panel.as_ptr().wrapping_add(col);
        // SAFETY: the caller has the instructions; `check` proved that the panel has `k` rows of all columns, and the views
        // prove that `x` and `out` have the rows.
        unsafe {
            let mut sums = [[I::splat(0.0); VECTORS]; ROWS];
            if tile.start == Start::Out {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = I::load(out.wrapping_add(r * out_stride + v * I::LANES));
                    }
                }
            }
            for k in 0..tile.x.cols() {
                let mut weights = [I::splat(0.0); VECTORS];
                for (v, weight) in weights.iter_mut().enumerate() {
                    *weight = S::load::<I>(panel.wrapping_add(v * I::LANES));
                }
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = I::splat(x.wrapping_add(r * x_stride + k).read());
                    for (sum, &weight) in sums.iter_mut().zip(&weights) {
                        *sum = I::mul_add(x, weight, *sum);
                    }
                }
                panel = panel.wrapping_add(tile.panel_stride);
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    I::store(out.wrapping_add(r * out_stride + v * I::LANES), sum);
                }
            }
        }
    }
}
