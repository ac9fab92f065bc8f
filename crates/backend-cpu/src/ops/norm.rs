//! RMS norm, alone and after a residual sum. Knows rows.

use tensor_backend::{AddRmsNorm, RmsNorm};

use crate::CpuBackend;
use crate::pool::{Chunks, Pool, Split};
use crate::simd::{Path, rms_norm_row};

/// Elements that are worth a thread.
const GRAIN: usize = 1 << 15;

pub(crate) fn rms_norm(path: Path, pool: &Pool, op: RmsNorm<'_, CpuBackend>) {
    let cols = op.x.cols();
    assert_eq!(op.out.cols(), cols);
    let weight = op.weight.row(0);
    let (x, eps) = (op.x, op.eps);
    pool.run(Chunks::new(op.out.rows_mut(0..op.rows), cols), GRAIN / cols, |rows| {
        rows.for_each(|row, out| rms_norm_row(path, x.row(row), weight, eps, out));
    });
}

pub(crate) fn add_rms_norm(path: Path, pool: &Pool, op: AddRmsNorm<'_, CpuBackend>) {
    let cols = op.x.cols();
    assert_eq!(op.out.cols(), cols);
    assert_eq!(op.residual.cols(), cols);
    let weight = op.weight.row(0);
    let (x, eps) = (op.x, op.eps);
    let residual = Chunks::new(op.residual.rows_mut(0..op.rows), cols);
    let out = Chunks::new(op.out.rows_mut(0..op.rows), cols);
    pool.run(Both(residual, out), GRAIN / cols, |Both(residual, out)| {
        residual.zip(out, |row, residual, out| {
            for (sum, x) in residual.iter_mut().zip(x.row(row)) {
                *sum += x;
            }
            rms_norm_row(path, residual, weight, eps, out);
        });
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
