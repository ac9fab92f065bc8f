//! Layouts that the products like, one to a stored format: how rows are brought into it, and how it is multiplied. Knows
//! stored formats, not which rows make a weight.

use core::ops::Range;

use model_format::TensorFormat;
use tensor_backend::WeightPart;

use crate::float::{Half, Single, StoredFloat, StoredNumber};
use crate::memory::{bytes_of, prefer_huge_pages, reserved, zeroed};
use crate::pairs::{Pairs, halves, pair};
use crate::panel::{
    PANEL_ROWS, PanelBlock, PanelQ4_0, PanelQ4_1, PanelQ4K, PanelQ5_0, PanelQ5_1, PanelQ5K, PanelQ6K, PanelQ8_0,
    dequantise_row,
};
use crate::pool::{Chunks, Pool};
use crate::quantise::ActivationBlock;
use crate::simd::{
    Matrix, MatrixMut, Operand, Path, Start, TileProduct, VectorBlock, VectorNumber, panel_product, tile_product,
};
use crate::{CpuError, Precision};

/// Outputs that are computed together.
pub(crate) const UNIT: usize = 32;

/// How a product takes its activations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Takes {
    /// As they are.
    Floats,
    /// Quantised.
    Blocks,
    /// Rounded to bfloat16.
    Brains,
}

/// Rows of activations as products take them.
#[derive(Clone, Copy)]
pub(crate) struct Activations<'a> {
    /// `[rows, k]`
    pub(crate) floats: Matrix<'a>,
    /// `[rows, k / 32]`; empty if no segment takes them.
    pub(crate) blocks: &'a [ActivationBlock],
    /// `[rows, words of k]`, as the [`Path`] lays them out; of no columns if no segment takes them.
    pub(crate) brains: Matrix<'a, u32>,
}

impl Activations<'_> {
    pub(crate) fn some_rows(&self, rows: Range<usize>) -> Self {
        let num_rows = self.floats.rows().max(1);
        let per_row = self.blocks.len() / num_rows;
        let blocks = &self.blocks[rows.start * per_row..rows.end * per_row];
        Self { floats: self.floats.some_rows(rows.clone()), blocks, brains: self.brains.some_rows(rows) }
    }
}

/// Rows of one format in the layout of its product.
pub(crate) trait Panels: Send + Sync {
    fn bytes(&self) -> u64;

    /// `out[r][c] =` row `r` of `x` times row `32 unit + c`, for all rows of `x`; columns beyond the last row are
    /// undefined. `out` has 32 columns.
    fn unit_product(&self, path: Path, unit: usize, x: Activations<'_>, out: MatrixMut<'_>);

    /// One row, dequantised.
    fn row(&self, row: usize, out: &mut [f32]);
}

/// `[units][cols][32]` stored floats.
struct FloatPanels<S: StoredNumber> {
    values: Vec<S::Bits>,
    cols: usize,
}

impl<S: VectorNumber> Panels for FloatPanels<S> {
    fn bytes(&self) -> u64 {
        bytes_of(&self.values)
    }

    fn unit_product(&self, path: Path, unit: usize, x: Activations<'_>, out: MatrixMut<'_>) {
        let panel = &self.values[unit * self.cols * UNIT..][..self.cols * UNIT];
        unit_product::<S>(path, panel, x.floats, out);
    }

    fn row(&self, row: usize, out: &mut [f32]) {
        let panel = &self.values[row / UNIT * self.cols * UNIT..][..self.cols * UNIT];
        for (out, values) in out.iter_mut().zip(panel.chunks_exact(UNIT)) {
            *out = S::to_f32(values[row % UNIT]);
        }
    }
}

/// The product with a panel of whole units.
fn unit_product<S: Operand>(path: Path, panel: &[S::Word], x: Matrix<'_, S::X>, out: MatrixMut<'_>) {
    tile_product::<S>(path, TileProduct { x, panels: &[panel], panel_stride: UNIT, start: Start::Zero, out });
}

/// `[units][pairs of columns][32]`, bfloat16.
struct PairPanels {
    pairs: Vec<u32>,
    cols: usize,
}

impl PairPanels {
    fn unit(&self, unit: usize) -> &[u32] {
        let len = self.cols.div_ceil(2) * UNIT;
        &self.pairs[unit * len..][..len]
    }
}

impl Panels for PairPanels {
    fn bytes(&self) -> u64 {
        bytes_of(&self.pairs)
    }

    fn unit_product(&self, path: Path, unit: usize, x: Activations<'_>, out: MatrixMut<'_>) {
        unit_product::<Pairs>(path, self.unit(unit), x.brains, out);
    }

    fn row(&self, row: usize, out: &mut [f32]) {
        for (out, pairs) in out.chunks_mut(2).zip(self.unit(row / UNIT).chunks_exact(UNIT)) {
            out.copy_from_slice(&halves(pairs[row % UNIT])[..out.len()]);
        }
    }
}

/// `[panels of 16 rows][blocks]`.
struct BlockPanels<B> {
    blocks: Vec<B>,
    blocks_per_row: usize,
}

impl<B: PanelBlock> BlockPanels<B> {
    fn panel(&self, panel: usize) -> &[B] {
        &self.blocks[panel * self.blocks_per_row..][..self.blocks_per_row]
    }
}

impl<B: VectorBlock> Panels for BlockPanels<B> {
    fn bytes(&self) -> u64 {
        bytes_of(&self.blocks)
    }

    fn unit_product(&self, path: Path, unit: usize, x: Activations<'_>, mut out: MatrixMut<'_>) {
        let rows = out.rows();
        let num_panels = self.blocks.len() / self.blocks_per_row;
        for half in 0..(UNIT / PANEL_ROWS).min(num_panels - unit * 2) {
            let out = out.part(0..rows, half * PANEL_ROWS..(half + 1) * PANEL_ROWS);
            panel_product(path, self.panel(unit * 2 + half), x.blocks, out);
        }
    }

    fn row(&self, row: usize, out: &mut [f32]) {
        dequantise_row(self.panel(row / PANEL_ROWS), row % PANEL_ROWS, out);
    }
}

pub(crate) fn row_bytes(part: &WeightPart<'_>) -> usize {
    part.format.row_bytes(part.cols).expect("the columns are whole blocks")
}

/// The rows of one segment on their way in.
pub(crate) struct Group<'a> {
    pub(crate) parts: &'a [WeightPart<'a>],
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl Group<'_> {
    /// The stored bytes of a row.
    fn row(&self, mut row: usize) -> &[u8] {
        for part in self.parts {
            if row < part.rows {
                let row_bytes = row_bytes(part);
                return &part.bytes[part.order.stored_row(row) * row_bytes..][..row_bytes];
            }
            row -= part.rows;
        }
        panic!("row beyond the group");
    }
}

/// Makes the layout of a segment.
pub(crate) type Loader = fn(&Group<'_>, &Pool) -> Result<Box<dyn Panels>, CpuError>;

/// A layout: how to make it and what it takes.
pub(crate) struct Kind {
    pub(crate) load: Loader,
    /// Bytes of a layout of so many rows and columns.
    pub(crate) bytes: fn(usize, usize) -> usize,
    pub(crate) takes: Takes,
}

impl Kind {
    fn floats<S: VectorNumber + StoredFloat>() -> Self {
        Self {
            load: |group, pool| {
                let len = group.rows.div_ceil(UNIT) * group.cols * UNIT;
                let mut values = zeroed(len, S::Bits::default(), "weights")?;
                prefer_huge_pages(&values);
                pool.run(Chunks::new(&mut values, group.cols * UNIT), 1, |units| {
                    let mut row = vec![0.0; group.cols];
                    for (unit, panel) in units.into_chunks() {
                        fill_unit::<S>(group, unit, panel, &mut row);
                    }
                });
                Ok(Box::new(FloatPanels::<S> { values, cols: group.cols }))
            },
            bytes: |rows, cols| rows.div_ceil(UNIT) * UNIT * cols * size_of::<S::Bits>(),
            takes: Takes::Floats,
        }
    }

    fn blocks<B: VectorBlock>() -> Self {
        Self {
            load: |group, pool| {
                let blocks_per_row = group.cols / B::WIDTH;
                let len = group.rows.div_ceil(PANEL_ROWS) * blocks_per_row;
                let mut blocks = reserved(len, "weights")?;
                prefer_huge_pages(&blocks);
                blocks.resize(len, B::ZERO);
                pool.run(Chunks::new(&mut blocks, blocks_per_row), 8, |panels| {
                    for (index, panel) in panels.into_chunks() {
                        fill_panel(group, index, panel);
                    }
                });
                Ok(Box::new(BlockPanels { blocks, blocks_per_row }))
            },
            bytes: |rows, cols| rows.div_ceil(PANEL_ROWS) * (cols / B::WIDTH) * size_of::<B>(),
            takes: Takes::Blocks,
        }
    }

    fn pairs() -> Self {
        Self {
            load: |group, pool| {
                let unit_len = group.cols.div_ceil(2) * UNIT;
                let mut pairs = zeroed(group.rows.div_ceil(UNIT) * unit_len, 0, "weights")?;
                prefer_huge_pages(&pairs);
                pool.run(Chunks::new(&mut pairs, unit_len), 1, |units| {
                    let mut row = vec![0.0; group.cols];
                    for (unit, panel) in units.into_chunks() {
                        fill_pairs(group, unit, panel, &mut row);
                    }
                });
                Ok(Box::new(PairPanels { pairs, cols: group.cols }))
            },
            bytes: |rows, cols| rows.div_ceil(UNIT) * UNIT * cols.div_ceil(2) * size_of::<u32>(),
            takes: Takes::Brains,
        }
    }
}

pub(crate) fn kind(format: TensorFormat, precision: Precision) -> Kind {
    match (precision, format) {
        (Precision::Exact, _) | (Precision::Native, TensorFormat::F32) => Kind::floats::<Single>(),
        (Precision::Native, TensorFormat::F16) => Kind::floats::<Half>(),
        (Precision::Native, TensorFormat::BF16) => Kind::pairs(),
        (Precision::Native, TensorFormat::Q4_0) => Kind::blocks::<PanelQ4_0>(),
        (Precision::Native, TensorFormat::Q4_1) => Kind::blocks::<PanelQ4_1>(),
        (Precision::Native, TensorFormat::Q5_0) => Kind::blocks::<PanelQ5_0>(),
        (Precision::Native, TensorFormat::Q5_1) => Kind::blocks::<PanelQ5_1>(),
        (Precision::Native, TensorFormat::Q8_0) => Kind::blocks::<PanelQ8_0>(),
        (Precision::Native, TensorFormat::Q4K) => Kind::blocks::<PanelQ4K>(),
        (Precision::Native, TensorFormat::Q5K) => Kind::blocks::<PanelQ5K>(),
        (Precision::Native, TensorFormat::Q6K) => Kind::blocks::<PanelQ6K>(),
    }
}

fn fill_unit<S: StoredFloat>(group: &Group<'_>, unit: usize, panel: &mut [S::Bits], row: &mut [f32]) {
    for lane in 0..UNIT.min(group.rows - unit * UNIT) {
        model_format::dequantize(group.parts[0].format, group.row(unit * UNIT + lane), row);
        for (values, &value) in panel.chunks_exact_mut(UNIT).zip(&*row) {
            values[lane] = S::from_f32(value);
        }
    }
}

fn fill_pairs(group: &Group<'_>, unit: usize, panel: &mut [u32], row: &mut [f32]) {
    for lane in 0..UNIT.min(group.rows - unit * UNIT) {
        model_format::dequantize(group.parts[0].format, group.row(unit * UNIT + lane), row);
        for (pairs, columns) in panel.chunks_exact_mut(UNIT).zip(row.chunks(2)) {
            pairs[lane] = pair(columns[0], columns.get(1).copied().unwrap_or_default());
        }
    }
}

fn fill_panel<B: PanelBlock>(group: &Group<'_>, index: usize, panel: &mut [B]) {
    for lane in 0..PANEL_ROWS.min(group.rows - index * PANEL_ROWS) {
        let stored = group.row(index * PANEL_ROWS + lane);
        let block_bytes = stored.len() / panel.len();
        for (block, stored) in panel.iter_mut().zip(stored.chunks_exact(block_bytes)) {
            block.pack(lane, stored);
        }
    }
}
