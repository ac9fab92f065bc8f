//! Weights in the layouts that the products like. Knows stored formats and rows, not tensor names.

use core::ops::Range;

use model_format::TensorFormat;
use tensor_backend::{WeightPart, WeightRole};

use crate::error::{bytes_of, reserved, zeroed};
use crate::float::{Brain, Half, Single, StoredFloat, StoredNumber};
use crate::panel::{
    PANEL_ROWS, PanelBlock, PanelQ4_0, PanelQ4_1, PanelQ4K, PanelQ5_0, PanelQ5_1, PanelQ5K, PanelQ6K, PanelQ8_0,
    dequantise_row,
};
use crate::pool::{Chunks, Pool};
use crate::quantise::ActivationBlock;
use crate::simd::{
    Matrix, MatrixMut, Path, Start, TileProduct, VectorBlock, VectorNumber, panel_product, tile_product,
};
use crate::{CpuError, Precision};

/// Outputs that are computed together.
pub(crate) const UNIT: usize = 32;

/// One or more stored matrices, concatenated by rows.
pub struct Weight {
    rows: usize,
    cols: usize,
    layout: Layout,
}

enum Layout {
    /// For products; an embedding that is also multiplied reads its rows from here.
    Segments(Vec<Segment>),
    /// For an embedding alone: as stored.
    Rows(Vec<StoredRows>),
}

/// Consecutive rows of one format.
pub(crate) struct Segment {
    /// Rows before it.
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
    /// Units of all segments before it.
    pub(crate) first_unit: usize,
    /// Whether the product takes quantised activations.
    pub(crate) takes_blocks: bool,
    pub(crate) panels: Box<dyn Panels>,
}

impl Segment {
    pub(crate) fn units(&self) -> usize {
        self.rows.div_ceil(UNIT)
    }
}

struct StoredRows {
    format: TensorFormat,
    rows: usize,
    bytes: Vec<u8>,
}

/// Rows of activations as products take them.
#[derive(Clone, Copy)]
pub(crate) struct Activations<'a> {
    /// `[rows, k]`
    pub(crate) floats: Matrix<'a>,
    /// `[rows, k / 32]`; empty if no segment needs them.
    pub(crate) blocks: &'a [ActivationBlock],
}

impl Activations<'_> {
    pub(crate) fn some_rows(&self, rows: Range<usize>) -> Self {
        let per_row = self.blocks.len() / self.floats.rows().max(1);
        let blocks = &self.blocks[rows.start * per_row..rows.end * per_row];
        Self { floats: self.floats.some_rows(rows), blocks }
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
        tile_product::<S>(path, TileProduct { x: x.floats, panel, panel_stride: UNIT, start: Start::Zero, out });
    }

    fn row(&self, row: usize, out: &mut [f32]) {
        let panel = &self.values[row / UNIT * self.cols * UNIT..][..self.cols * UNIT];
        for (out, values) in out.iter_mut().zip(panel.chunks_exact(UNIT)) {
            *out = S::to_f32(values[row % UNIT]);
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

impl Weight {
    pub(crate) fn load(
        parts: &[WeightPart<'_>],
        role: WeightRole,
        precision: Precision,
        pool: &Pool,
    ) -> Result<Self, CpuError> {
        let cols = parts[0].cols;
        for part in parts {
            assert_eq!(part.cols, cols, "parts of one weight have the same inputs");
            assert_eq!(Some(part.bytes.len()), row_bytes(part).checked_mul(part.rows), "whole rows");
        }
        let layout = match role {
            WeightRole::Embedding => Layout::Rows(parts.iter().map(stored_rows).collect::<Result<_, _>>()?),
            WeightRole::Product | WeightRole::TiedEmbedding | WeightRole::GatedProduct => {
                let (mut first_row, mut first_unit) = (0, 0);
                let mut segments = Vec::new();
                for group in groups(parts, role) {
                    let rows = group.iter().map(|part| part.rows).sum();
                    let kind = kind(group[0].format, precision);
                    let panels = (kind.load)(&Group { parts: group, rows, cols }, pool)?;
                    let segment = Segment { first_row, rows, first_unit, takes_blocks: kind.takes_blocks, panels };
                    first_row += rows;
                    first_unit += segment.units();
                    segments.push(segment);
                }
                if role == WeightRole::GatedProduct {
                    assert_eq!(segments.len(), 2, "gate and up");
                    assert_eq!(segments[0].rows, segments[1].rows, "gate and up have equal shapes");
                }
                Layout::Segments(segments)
            }
        };
        Ok(Self { rows: parts.iter().map(|part| part.rows).sum(), cols, layout })
    }

    /// Bytes that [`load`](Self::load) will take, from the shapes alone.
    pub(crate) fn planned_bytes(parts: &[WeightPart<'_>], role: WeightRole, precision: Precision) -> u64 {
        if role == WeightRole::Embedding {
            return parts.iter().map(|part| (row_bytes(part) * part.rows) as u64).sum();
        }
        groups(parts, role)
            .map(|group| {
                let rows: usize = group.iter().map(|part| part.rows).sum();
                (kind(group[0].format, precision).bytes)(rows, group[0].cols) as u64
            })
            .sum()
    }

    /// Whether products with a weight of these parts quantise their activations.
    pub(crate) fn takes_blocks(parts: &[WeightPart<'_>], role: WeightRole, precision: Precision) -> bool {
        role != WeightRole::Embedding && parts.iter().any(|part| kind(part.format, precision).takes_blocks)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn bytes(&self) -> u64 {
        match &self.layout {
            Layout::Segments(segments) => segments.iter().map(|segment| segment.panels.bytes()).sum(),
            Layout::Rows(parts) => parts.iter().map(|part| bytes_of(&part.bytes)).sum(),
        }
    }

    /// The segments of a product.
    pub(crate) fn segments(&self) -> &[Segment] {
        match &self.layout {
            Layout::Segments(segments) => segments,
            Layout::Rows(_) => panic!("the weight was loaded as an embedding only"),
        }
    }

    /// Row `row`, dequantised.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        match &self.layout {
            Layout::Segments(segments) => {
                let index = segments.partition_point(|segment| segment.first_row <= row) - 1;
                segments[index].panels.row(row - segments[index].first_row, out);
            }
            Layout::Rows(parts) => {
                let mut row = row;
                for part in parts {
                    if row < part.rows {
                        let row_bytes = part.bytes.len() / part.rows;
                        return model_format::dequantize(part.format, &part.bytes[row * row_bytes..][..row_bytes], out);
                    }
                    row -= part.rows;
                }
                panic!("row beyond the weight");
            }
        }
    }
}

fn row_bytes(part: &WeightPart<'_>) -> usize {
    part.format.row_bytes(part.cols).expect("the columns are whole blocks")
}

fn stored_rows(part: &WeightPart<'_>) -> Result<StoredRows, CpuError> {
    let row_bytes = row_bytes(part);
    let mut bytes = reserved(part.bytes.len(), "weights")?;
    for row in 0..part.rows {
        bytes.extend_from_slice(&part.bytes[part.order.stored_row(row) * row_bytes..][..row_bytes]);
    }
    Ok(StoredRows { format: part.format, rows: part.rows, bytes })
}

/// Runs of parts that make one segment: of equal format, but gate and up always apart.
fn groups<'a, 'b>(parts: &'a [WeightPart<'b>], role: WeightRole) -> impl Iterator<Item = &'a [WeightPart<'b>]> {
    parts.chunk_by(move |a, b| role != WeightRole::GatedProduct && a.format == b.format)
}

/// The rows of one segment on their way in.
struct Group<'a> {
    parts: &'a [WeightPart<'a>],
    rows: usize,
    cols: usize,
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
type Loader = fn(&Group<'_>, &Pool) -> Result<Box<dyn Panels>, CpuError>;

/// A layout: how to make it and what it takes.
struct Kind {
    load: Loader,
    /// Bytes of a layout of so many rows and columns.
    bytes: fn(usize, usize) -> usize,
    /// Whether its product takes quantised activations.
    takes_blocks: bool,
}

impl Kind {
    fn floats<S: VectorNumber + StoredFloat>() -> Self {
        Self {
            load: |group, pool| {
                let len = group.rows.div_ceil(UNIT) * group.cols * UNIT;
                let mut values = zeroed(len, S::Bits::default(), "weights")?;
                pool.run(Chunks::new(&mut values, group.cols * UNIT), 1, |units| {
                    let mut row = vec![0.0; group.cols];
                    for (unit, panel) in units.into_chunks() {
                        fill_unit::<S>(group, unit, panel, &mut row);
                    }
                });
                Ok(Box::new(FloatPanels::<S> { values, cols: group.cols }))
            },
            bytes: |rows, cols| rows.div_ceil(UNIT) * UNIT * cols * size_of::<S::Bits>(),
            takes_blocks: false,
        }
    }

    fn blocks<B: VectorBlock>() -> Self {
        Self {
            load: |group, pool| {
                let blocks_per_row = group.cols / B::WIDTH;
                let len = group.rows.div_ceil(PANEL_ROWS) * blocks_per_row;
                let mut blocks = zeroed(len, B::ZERO, "weights")?;
                pool.run(Chunks::new(&mut blocks, blocks_per_row), 8, |panels| {
                    for (index, panel) in panels.into_chunks() {
                        fill_panel(group, index, panel);
                    }
                });
                Ok(Box::new(BlockPanels { blocks, blocks_per_row }))
            },
            bytes: |rows, cols| rows.div_ceil(PANEL_ROWS) * (cols / B::WIDTH) * size_of::<B>(),
            takes_blocks: true,
        }
    }
}

fn kind(format: TensorFormat, precision: Precision) -> Kind {
    match (precision, format) {
        (Precision::Exact, _) | (Precision::Native, TensorFormat::F32) => Kind::floats::<Single>(),
        (Precision::Native, TensorFormat::F16) => Kind::floats::<Half>(),
        (Precision::Native, TensorFormat::BF16) => Kind::floats::<Brain>(),
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

fn fill_panel<B: PanelBlock>(group: &Group<'_>, index: usize, panel: &mut [B]) {
    for lane in 0..PANEL_ROWS.min(group.rows - index * PANEL_ROWS) {
        let stored = group.row(index * PANEL_ROWS + lane);
        let block_bytes = stored.len() / panel.len();
        for (block, stored) in panel.iter_mut().zip(stored.chunks_exact(block_bytes)) {
            block.pack(lane, stored);
        }
    }
}
