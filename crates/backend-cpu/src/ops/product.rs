//! Products with weights, plain and gated. Knows how outputs are divided among threads and rows into chunks that stay in
//! the cache; neither changes a sum.

use core::ops::Range;

use tensor_backend::{GatedMatMul, MatMul};

use crate::buffer::Buffer;
use crate::layout::{Activations, Takes, UNIT};
use crate::memory::{bytes_of, reserved};
use crate::pool::{Chunks, Cores, Split};
use crate::quantise::BLOCK;
use crate::simd::{BLOCK_WORDS, Matrix, MatrixMut, Path, as_blocks, quantise_row, round_row, silu_mul};
use crate::weight::{Segment, Weight};
use crate::{CpuBackend, CpuError};

/// Rows that pass through a weight's panel while it is in the cache.
const CHUNK_ROWS: usize = 32;

/// Products of single elements that are worth a thread.
const GRAIN: usize = 1 << 17;

/// Quantised and rounded activations, kept from op to op.
#[derive(Debug, Default)]
pub(crate) struct ProductScratch {
    /// Blocks of all rows, then words of bfloat16 of all rows.
    words: Vec<u32>,
}

/// Words of a row of activations in each form that a weight takes.
#[derive(Clone, Copy)]
struct RowWords {
    blocks: usize,
    brains: usize,
}

impl RowWords {
    fn of(path: Path, cols: usize, taken: impl Iterator<Item = Takes>) -> Self {
        let mut words = Self { blocks: 0, brains: 0 };
        for takes in taken {
            match takes {
                Takes::Floats => {}
                Takes::Blocks => words.blocks = cols / BLOCK * BLOCK_WORDS,
                Takes::Brains => words.brains = path.words().per_row(cols),
            }
        }
        words
    }
}

impl ProductScratch {
    pub(crate) fn bytes(&self) -> u64 {
        bytes_of(&self.words)
    }

    /// Bytes that a product of `rows` rows of `cols` inputs needs, which segments of a weight take in these forms.
    pub(crate) fn planned_bytes(path: Path, rows: usize, cols: usize, taken: impl Iterator<Item = Takes>) -> u64 {
        let RowWords { blocks, brains } = RowWords::of(path, cols, taken);
        (rows * (blocks + brains) * size_of::<u32>()) as u64
    }

    /// Makes room for all products that need at most `bytes`. Its pages are taken by the first that use them.
    pub(crate) fn reserve(&mut self, bytes: u64) -> Result<(), CpuError> {
        let len = bytes as usize / size_of::<u32>();
        if self.words.capacity() < len {
            self.words = reserved(len, "scratch")?;
        }
        Ok(())
    }

    /// The leading rows of `x`, in all forms that the weight's segments take.
    fn activations<'a>(&'a mut self, cores: &Cores, x: &'a Buffer, rows: usize, weight: &Weight) -> Activations<'a> {
        let cols = weight.cols();
        assert_eq!(x.cols(), cols);
        let values = x.rows(0..rows);
        let per_row = RowWords::of(cores.path, cols, weight.segments().iter().map(|segment| segment.takes));
        let len = rows * (per_row.blocks + per_row.brains);
        if self.words.len() < len {
            self.words.resize(len, 0);
        }
        let (blocks, brains) = self.words[..len].split_at_mut(rows * per_row.blocks);
        let blocks = as_blocks(blocks);
        let grain = GRAIN / 16 / cols;
        if !blocks.is_empty() {
            cores.pool.run(Chunks::new(blocks, cols / BLOCK), grain, |chunks| {
                for (row, out) in chunks.into_chunks() {
                    quantise_row(cores.path, &values[row * cols..][..cols], out);
                }
            });
        }
        if !brains.is_empty() {
            cores.pool.run(Chunks::new(brains, per_row.brains), grain, |chunks| {
                for (row, out) in chunks.into_chunks() {
                    round_row(cores.path, &values[row * cols..][..cols], out);
                }
            });
        }
        let brains = Matrix::new(brains, rows, per_row.brains, per_row.brains);
        Activations { floats: Matrix::new(values, rows, cols, cols), blocks, brains }
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
                let mut out = work.out.part(chunk.clone(), columns.start - first_column..columns.end - first_column);
                if columns.len() == UNIT {
                    segment.panels.unit_product(cores.path, unit - segment.first_unit, x, out.reborrow());
                } else {
                    let sums = MatrixMut::new(&mut tile, chunk.len(), UNIT, UNIT);
                    segment.panels.unit_product(cores.path, unit - segment.first_unit, x, sums);
                    for (row, sums) in tile.chunks_exact(UNIT).take(chunk.len()).enumerate() {
                        out.row_mut(row).copy_from_slice(&sums[..columns.len()]);
                    }
                }
                if let Some(bias) = bias {
                    for row in 0..chunk.len() {
                        for (sum, bias) in out.row_mut(row).iter_mut().zip(&bias[columns.clone()]) {
                            *sum += bias;
                        }
                    }
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
