//! RMS norm, alone and after a residual sum. Knows rows.

use tensor_backend::{AddRmsNorm, RmsNorm};

use crate::CpuBackend;
use crate::pool::{Chunks, Cores, Split};
use crate::simd::{add_row, rms_norm_row};

/// Elements that are worth a thread.
const GRAIN: usize = 1 << 15;

pub(crate) fn rms_norm(cores: &Cores, op: RmsNorm<'_, CpuBackend>) {
    let cols = op.x.cols();
    assert_eq!(op.out.cols(), cols);
    let weight = op.weight.row(0);
    let (x, eps) = (op.x, op.eps);
    cores.pool.run(Chunks::new(op.out.rows_mut(0..op.rows), cols), GRAIN / cols, |rows| {
        for (row, out) in rows.into_chunks() {
            rms_norm_row(cores.path, x.row(row), weight, eps, out);
        }
    });
}

pub(crate) fn add_rms_norm(cores: &Cores, op: AddRmsNorm<'_, CpuBackend>) {
    let cols = op.x.cols();
    assert_eq!(op.out.cols(), cols);
    assert_eq!(op.residual.cols(), cols);
    let weight = op.weight.row(0);
    let (x, eps) = (op.x, op.eps);
    let residual = Chunks::new(op.residual.rows_mut(0..op.rows), cols);
    let out = Chunks::new(op.out.rows_mut(0..op.rows), cols);
    cores.pool.run(Both(residual, out), GRAIN / cols, |Both(residual, out)| {
        for ((row, residual), (_, out)) in residual.into_chunks().zip(out.into_chunks()) {
            add_row(cores.path, residual, x.row(row));
            rms_norm_row(cores.path, residual, weight, eps, out);
        }
    });
}

/// Two matrices of as many rows.
struct Both<'a>(Chunks<'a, f32>, Chunks<'a, f32>);

impl Split for Both<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let ((a, c), (b, d)) = (self.0.split_at(mid), self.1.split_at(mid));
        (Self(a, b), Self(c, d))
    }
}
