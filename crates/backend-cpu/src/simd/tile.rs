//! The product of some rows with a row-major panel of stored floats: the inner loop of float weights, of attention scores
//! and of weighted values. Knows shapes, not their meaning.

use super::{Matrix, MatrixMut, Path};
use crate::float::StoredFloat;

/// What a chain of multiply-adds starts from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Start {
    /// Zero.
    Zero,
    /// The output's own value.
    Out,
}

/// `out[r][c] = start + sum over k, ascending, of x[r][k] * panel[k * panel_stride + c]`, each step one fused multiply-add.
pub(crate) struct TileProduct<'a, S: StoredFloat> {
    /// `[rows, k]`
    pub(crate) x: Matrix<'a>,
    /// `[k, cols]`, rows `panel_stride` apart
    pub(crate) panel: &'a [S::Bits],
    pub(crate) panel_stride: usize,
    pub(crate) start: Start,
    /// `[rows, cols]`
    pub(crate) out: MatrixMut<'a>,
}

impl<S: StoredFloat> TileProduct<'_, S> {
    fn check(&self) {
        let (k, cols) = (self.x.cols(), self.out.cols());
        assert_eq!(self.x.rows(), self.out.rows());
        assert!(k == 0 || (k - 1) * self.panel_stride + cols <= self.panel.len(), "the panel has k rows");
    }
}

/// Computes the product.
pub(crate) fn tile_product<S: StoredFloat>(_path: Path, mut tile: TileProduct<'_, S>) {
    tile.check();
    for row in 0..tile.x.rows() {
        let x = tile.x.row(row);
        for (col, out) in tile.out.row_mut(row).iter_mut().enumerate() {
            *out = plain_chain::<S>(tile.start, *out, x, &tile.panel[col..], tile.panel_stride);
        }
    }
}

fn plain_chain<S: StoredFloat>(start: Start, out: f32, x: &[f32], column: &[S::Bits], stride: usize) -> f32 {
    let first = if start == Start::Zero { 0.0 } else { out };
    x.iter().enumerate().fold(first, |sum, (k, x)| x.mul_add(S::to_f32(column[k * stride]), sum))
}
