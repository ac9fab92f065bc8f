//! Products with weights, plain and gated. Knows how outputs are divided among threads and rows into chunks that stay in
//! the cache; neither changes a sum.

use core::ops::Range;

use tensor_backend::{GatedMatMul, MatMul};

use crate::buffer::Buffer;
use crate::error::{bytes_of, reserved};
use crate::pool::{Chunks, Cores, Split};
use crate::quantise::{ActivationBlock, BLOCK};
use crate::simd::{Matrix, MatrixMut, quantise_row, silu_mul};
use crate::weight::{Activations, Segment, UNIT, Weight};
use crate::{CpuBackend, CpuError};

/// Rows that pass through a weight's panel while it is in the cache.
const CHUNK_ROWS: usize = 32;

/// Products of single elements that are worth a thread.
const GRAIN: usize = 1 << 17;

/// Quantised activations, kept from op to op.
#[derive(Debug, Default)]
pub(crate) struct ProductScratch {
    blocks: Vec<ActivationBlock>,
}

impl ProductScratch {
    pub(crate) fn bytes(&self) -> u64 {
        bytes_of(&self.blocks)
    }

    /// Bytes that a product of `rows` rows of `cols` quantised inputs needs.
    pub(crate) fn planned_bytes(rows: usize, cols: usize) -> u64 {
        (rows * (cols / BLOCK) * size_of::<ActivationBlock>()) as u64
    }

    /// Makes room for all products that need at most `bytes`. Its pages are taken by the first that use them.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<(), CpuError> {
        let len = bytes as usize / size_of::<ActivationBlock>();
        if self.blocks.capacity() < len {
            self.blocks = reserved(len, "scratch")?;
        }
        Ok(())
    }

    /// The leading rows of `x`, also quantised if a segment takes them so.
    fn activations<'a>(&'a mut self, cores: &Cores, x: &'a Buffer, rows: usize, weight: &Weight) -> Activations<'a> {
        let cols = weight.cols();
        assert_eq!(x.cols(), cols);
        let values = x.rows(0..rows);
        let mut len = 0;
        if weight.segments().iter().any(|segment| segment.takes_blocks) {
            let per_row = cols / BLOCK;
            len = rows * per_row;
            if self.blocks.len() < len {
                self.blocks.resize(len, ActivationBlock::default());
            }
            cores.pool.run(Chunks::new(&mut self.blocks[..len], per_row), GRAIN / 4 / cols, |chunks| {
                for (row, out) in chunks.into_chunks() {
                    quantise_row(cores.path, &values[row * cols..][..cols], out);
                }
            });
        }
        Activations { floats: Matrix::new(values, rows, cols, cols), blocks: &self.blocks[..len] }
    }
}

/// Sums of a chunk of rows and one unit of outputs.
type Tile = [f32; CHUNK_ROWS * UNIT];

pub(crate) fn matmul(cores: &Cores, scratch: &mut ProductScratch, op: MatMul<'_, CpuBackend>) {
    let (weight, rows) = (op.weight, op.rows);
    assert_eq!(op.out.cols(), weight.rows());
    let x = scratch.activations(cores, op.x, rows, weight);
    let bias = op.bias.map(|bias| bias.row(0));
    let out = MatrixMut::new(op.out.rows_mut(0..rows), rows, weight.rows(), weight.rows());
    let last = weight.segments().last().expect("a weight has parts");
    let work = Units { weight, units: 0..last.first_unit + last.units(), out };
    let grain = grain(cores, &work, rows * weight.cols() * UNIT);
    cores.pool.run(work, grain, |mut work| {
        let first_column = column(weight, work.units.start);
        let mut tile: Tile = [0.0; CHUNK_ROWS * UNIT];
        for_row_chunks(rows, |chunk| {
            let x = x.some_rows(chunk.clone());
            for unit in work.units.clone() {
                let segment = segment_of(weight, unit);
                let columns = column(weight, unit)..column(weight, unit + 1);
                let sums = MatrixMut::new(&mut tile, chunk.len(), UNIT, UNIT);
                segment.panels.unit_product(cores.path, unit - segment.first_unit, x, sums);
                for (row, sums) in chunk.clone().zip(tile.chunks_exact_mut(UNIT)) {
                    let sums = &mut sums[..columns.len()];
                    if let Some(bias) = bias {
                        for (sum, bias) in sums.iter_mut().zip(&bias[columns.clone()]) {
                            *sum += bias;
                        }
                    }
                    let out = work.out.row_mut(row);
                    out[columns.start - first_column..columns.end - first_column].copy_from_slice(sums);
                }
            }
        });
    });
}

pub(crate) fn gated_matmul(cores: &Cores, scratch: &mut ProductScratch, op: GatedMatMul<'_, CpuBackend>) {
    let (weight, rows) = (op.weight, op.rows);
    let [gate, up] = weight.segments() else { panic!("the weight was not loaded as a gated product") };
    assert_eq!(op.out.cols(), gate.rows);
    let x = scratch.activations(cores, op.x, rows, weight);
    let out = MatrixMut::new(op.out.rows_mut(0..rows), rows, gate.rows, gate.rows);
    let work = Units { weight, units: 0..gate.units(), out };
    let grain = grain(cores, &work, 2 * rows * weight.cols() * UNIT);
    cores.pool.run(work, grain, |mut work| {
        let first_column = work.units.start * UNIT;
        let mut tiles: [Tile; 2] = [[0.0; CHUNK_ROWS * UNIT]; 2];
        for_row_chunks(rows, |chunk| {
            let x = x.some_rows(chunk.clone());
            for unit in work.units.clone() {
                let columns = unit * UNIT..gate.rows.min((unit + 1) * UNIT);
                for (segment, tile) in [gate, up].into_iter().zip(&mut tiles) {
                    let sums = MatrixMut::new(tile, chunk.len(), UNIT, UNIT);
                    segment.panels.unit_product(cores.path, unit, x, sums);
                }
                let sums = tiles[0].chunks_exact(UNIT).zip(tiles[1].chunks_exact(UNIT));
                for (row, (gate, up)) in chunk.clone().zip(sums) {
                    let out = work.out.row_mut(row);
                    let out = &mut out[columns.start - first_column..columns.end - first_column];
                    silu_mul(cores.path, &gate[..columns.len()], &up[..columns.len()], out);
                }
            }
        });
    });
}

fn for_row_chunks(rows: usize, mut f: impl FnMut(Range<usize>)) {
    for first in (0..rows).step_by(CHUNK_ROWS) {
        f(first..rows.min(first + CHUNK_ROWS));
    }
}

/// Units a piece: a few pieces a thread, so that a thread that is held up delays little, but none too small to be worth it.
fn grain(cores: &Cores, work: &Units<'_>, products_per_unit: usize) -> usize {
    let even = work.units.len().div_ceil(cores.pool.num_threads() * 4);
    even.max(GRAIN / products_per_unit.max(1))
}

/// Columns of a product: some units of its weight, and their part of the output.
struct Units<'a> {
    weight: &'a Weight,
    units: Range<usize>,
    out: MatrixMut<'a>,
}

impl Split for Units<'_> {
    fn len(&self) -> usize {
        self.units.len()
    }

    fn split_at(self, mid: usize) -> (Self, Self) {
        let mid = self.units.start + mid;
        let width = column(self.weight, mid) - column(self.weight, self.units.start);
        let (left, right) = self.out.split_cols(width);
        (
            Self { weight: self.weight, units: self.units.start..mid, out: left },
            Self { weight: self.weight, units: mid..self.units.end, out: right },
        )
    }
}

fn segment_of(weight: &Weight, unit: usize) -> &Segment {
    let segments = weight.segments();
    &segments[segments.partition_point(|segment| segment.first_unit <= unit) - 1]
}

/// The first output of a unit; of the unit after the last, the number of outputs.
fn column(weight: &Weight, unit: usize) -> usize {
    let segment = segment_of(weight, unit);
    segment.first_row + ((unit - segment.first_unit) * UNIT).min(segment.rows)
}
