//! Weights: which rows make one, and which of their formats. Knows stored rows, not how they are multiplied or named.

use model_format::TensorFormat;
use tensor_backend::{WeightPart, WeightRole};

use crate::layout::{Group, Panels, Takes, UNIT, kind, row_bytes};
use crate::memory::{bytes_of, reserved};
use crate::pool::Pool;
use crate::{CpuError, Precision};

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
    pub(crate) takes: Takes,
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
                    let segment = Segment { first_row, rows, first_unit, takes: kind.takes, panels };
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

    /// How products with a weight of these parts take their activations.
    pub(crate) fn planned_takes(
        parts: &[WeightPart<'_>],
        role: WeightRole,
        precision: Precision,
    ) -> impl Iterator<Item = Takes> {
        let multiplied = if role == WeightRole::Embedding { &[] } else { parts };
        multiplied.iter().map(move |part| kind(part.format, precision).takes)
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
