//! The product of some rows with a row-major matrix of stored words: the inner loop of float weights and of weighted values.
//! Knows shapes, not their meaning.

use super::{Matrix, MatrixMut, Operand, Path};
#[cfg(target_arch = "x86_64")]
use crate::Instructions;

/// What a chain of multiply-adds starts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    /// Zero.
    Zero,
    /// The output's own value.
    Out,
}

impl Start {
    /// The start of a chain that goes to an output of this value.
    #[inline(always)]
    pub(super) fn value(self, out: f32) -> f32 {
        if self == Self::Zero { 0.0 } else { out }
    }
}

/// `out[r][c] = start + sum over k, ascending, of x[r][k] * matrix[k][c]`, each step one fused multiply-add. The matrix may
/// lie in several panels, one after the other.
pub(crate) struct TileProduct<'a, S: Operand> {
    /// `[rows, k]`
    pub(crate) x: Matrix<'a, S::X>,
    /// Whole rows, `panel_stride` words each.
    pub(crate) panels: &'a [&'a [S::Word]],
    pub(crate) panel_stride: usize,
    pub(crate) start: Start,
    /// `[rows, cols]`
    pub(crate) out: MatrixMut<'a>,
}

impl<S: Operand> TileProduct<'_, S> {
    fn check(&self, path: Path) {
        assert_eq!(self.x.rows(), self.out.rows());
        assert!(self.out.cols() <= self.panel_stride);
        assert!(
            self.panels.iter().all(|panel| panel.len().is_multiple_of(self.panel_stride)),
            "panels have whole rows"
        );
        let words = self.panels.iter().map(|panel| panel.len() / self.panel_stride).sum::<usize>();
        assert_eq!(self.x.cols(), words * S::x_per_word(path));
    }

    /// Columns `from ..`, plainly.
    #[inline(always)]
    fn plain(&mut self, path: Path, from: usize) {
        for row in 0..self.x.rows() {
            for (col, out) in self.out.row_mut(row).iter_mut().enumerate().skip(from) {
                let words = self.panels.iter().flat_map(|panel| panel.chunks_exact(self.panel_stride));
                let x = self.x.row(row).chunks_exact(S::x_per_word(path));
                *out = x.zip(words).fold(self.start.value(*out), |sum, (x, words)| S::multiply_add(sum, words[col], x));
            }
        }
    }
}

/// Computes the product.
pub(crate) fn tile_product<S: Operand>(path: Path, mut tile: TileProduct<'_, S>) {
    tile.check(path);
    match path.instructions() {
        // SAFETY: the path proves that the machine has these instructions.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { vector::product_avx2(path, tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => unsafe { vector::product_avx512(path, tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512Bf16 => unsafe { vector::product_avx512_bf16(path, tile) },
        _ => tile.plain(path, 0),
    }
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use super::{Start, TileProduct};
    use crate::simd::isa::Isa;
    use crate::simd::operand::{MultiplyAdd, accumulate};
    use crate::simd::{Operand, Path};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn product_avx2<S: Operand>(path: Path, tile: TileProduct<'_, S>) {
        // SAFETY: this function has the features.
        unsafe { product::<S, S::Avx2>(path, tile) }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn product_avx512<S: Operand>(path: Path, tile: TileProduct<'_, S>) {
        // SAFETY: this function has the features.
        unsafe { product::<S, S::Avx512>(path, tile) }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
    pub(super) fn product_avx512_bf16<S: Operand>(path: Path, tile: TileProduct<'_, S>) {
        // SAFETY: this function has the features.
        unsafe { product::<S, S::Avx512Bf16>(path, tile) }
    }

    /// All rows: tiles as high as the registers allow, then lower ones.
    ///
    /// # Safety
    /// The machine has the instructions of `M`, and the tile's shapes were checked.
    #[inline(always)]
    unsafe fn product<S, M>(path: Path, mut tile: TileProduct<'_, S>)
    where
        S: Operand,
        M: MultiplyAdd<Word = S::Word, X = S::X>,
    {
        let rows = tile.x.rows();
        let mut row = 0;
        // SAFETY: passed on to the caller.
        unsafe {
            while M::Isa::TILE_ROWS >= 12 && row + 12 <= rows {
                columns::<S, M, 12, 2>(&mut tile, row);
                row += 12;
            }
            while row + 6 <= rows {
                columns::<S, M, 6, 2>(&mut tile, row);
                row += 6;
            }
            while row + 3 <= rows {
                columns::<S, M, 3, 4>(&mut tile, row);
                row += 3;
            }
            while row < rows {
                columns::<S, M, 1, 4>(&mut tile, row);
                row += 1;
            }
        }
        let whole_vectors = tile.out.cols() / M::Isa::LANES * M::Isa::LANES;
        if whole_vectors < tile.out.cols() {
            tile.plain(path, whole_vectors);
        }
    }

    /// `ROWS` rows from `row` on, in whole vectors of columns.
    ///
    /// # Safety
    /// As for [`product`], and the tile has the rows.
    #[inline(always)]
    unsafe fn columns<S, M, const ROWS: usize, const VECTORS: usize>(tile: &mut TileProduct<'_, S>, row: usize)
    where
        S: Operand,
        M: MultiplyAdd<Word = S::Word, X = S::X>,
    {
        let lanes = M::Isa::LANES;
        let cols = tile.out.cols();
        let mut col = 0;
        // SAFETY: the columns are inside of the tile; the rest is passed on to the caller.
        unsafe {
            while col + VECTORS * lanes <= cols {
                vectors::<S, M, ROWS, VECTORS>(tile, row, col);
                col += VECTORS * lanes;
            }
            while VECTORS > 2 && col + 2 * lanes <= cols {
                vectors::<S, M, ROWS, 2>(tile, row, col);
                col += 2 * lanes;
            }
            while col + lanes <= cols {
                vectors::<S, M, ROWS, 1>(tile, row, col);
                col += lanes;
            }
        }
    }

    /// `ROWS` rows by `VECTORS` vectors, whose sums stay in registers.
    ///
    /// # Safety
    /// As for [`product`], and the tile has rows `row .. row + ROWS` and columns `col .. col + VECTORS * LANES`.
    #[inline(always)]
    unsafe fn vectors<S, M, const ROWS: usize, const VECTORS: usize>(
        tile: &mut TileProduct<'_, S>,
        row: usize,
        col: usize,
    ) where
        S: Operand,
        M: MultiplyAdd<Word = S::Word, X = S::X>,
    {
        let lanes = M::Isa::LANES;
        debug_assert!(row + ROWS <= tile.x.rows());
        debug_assert!(col + VECTORS * lanes <= tile.out.cols());
        let (x_stride, out_stride) = (tile.x.stride(), tile.out.stride());
        let mut x = tile.x.as_ptr().wrapping_add(row * x_stride);
        let out = tile.out.as_mut_ptr().wrapping_add(row * out_stride + col);
        // SAFETY: the caller has the instructions; `check` proved that the panels have whole rows with all columns, and as
        // many as `x` has words for; the views prove that `x` and `out` have the rows.
        unsafe {
            let mut sums = [[M::Isa::splat(0.0); VECTORS]; ROWS];
            if tile.start == Start::Out {
                for (r, sums) in sums.iter_mut().enumerate() {
                    for (v, sum) in sums.iter_mut().enumerate() {
                        *sum = M::Isa::load(out.wrapping_add(r * out_stride + v * lanes));
                    }
                }
            }
            for panel in tile.panels {
                let len = panel.len() / tile.panel_stride;
                let words = core::array::from_fn(|v| panel.as_ptr().wrapping_add(col + v * lanes));
                sums = accumulate::<M, ROWS, VECTORS>(sums, (x, x_stride), words, tile.panel_stride, len);
                x = x.wrapping_add(len * M::PARTS);
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    M::Isa::store(out.wrapping_add(r * out_stride + v * lanes), sum);
                }
            }
        }
    }
}
