//! Products with weights, dense or quantised, many or few rows: which kernel multiplies what, and the scratch it needs.
//! Knows shapes, not what a product is for.

use kernels_sys::{PW_MAX_QUANTISED_ROWS, PwQuantisedExpand, PwQuantisedProduct};
use tensor_backend::{Element, WeightPart};

use crate::buffer::element_code;
use crate::driver::DeviceRange;
use crate::product::{End, Product, ProductShape, WeightState};
use crate::weight::{PartRows, PartView, Weight};
use crate::{Arithmetic, CudaBackend, CudaError};

/// Weights are expanded in panels of at most this size.
const MAX_PANEL_BYTES: usize = 64 << 20;

impl CudaBackend {
    /// `out = x · weightᵀ`, part by part. `panel` is scratch for quantised parts of many rows.
    pub(crate) fn multiply(&mut self, op: &Multiply<'_>) -> Result<(), CudaError> {
        let &Multiply { x, weight, out, out_element, rows, panel } = op;
        let out_stride = weight.n;
        for part in &weight.parts {
            let column_bytes = part.rows.first * out_element.bytes();
            let shape =
                ProductShape { rows, n: part.rows.num, k: weight.k, out_stride, element: self.element, out_element };
            let quantised = match part.view(weight.k) {
                PartView::Dense(matrix) => {
                    let out = out.part(column_bytes, out.bytes() - column_bytes);
                    let (end, weight_state) = (End::Store, WeightState::Settled);
                    let product = Product { shape, ranges: [matrix, x, out], end, weight_state };
                    self.products.multiply(&self.kernels, &product)?;
                    continue;
                }
                PartView::Quantised(quantised) => quantised,
            };
            if self.arithmetic.multiplies_directly(rows) {
                self.kernels.quantised_product(&PwQuantisedProduct {
                    weight: quantised,
                    x: x.as_ptr(),
                    out: out.as_ptr(),
                    out_stride: out_stride as i64,
                    out_offset: part.rows.first as i64,
                    rows: rows as i32,
                    element: element_code(self.element),
                    out_element: element_code(out_element),
                })?;
                continue;
            }
            let panel = panel.expect("scratch for panels");
            let panel_rows = panel_rows(part.rows.num, weight.k, self.element);
            for first in (0..part.rows.num).step_by(panel_rows) {
                let num_rows = panel_rows.min(part.rows.num - first);
                self.kernels.quantised_expand(&PwQuantisedExpand {
                    weight: quantised,
                    out: panel.as_ptr(),
                    first_row: first as i32,
                    num_rows: num_rows as i32,
                    element: element_code(self.element),
                })?;
                let offset = column_bytes + first * out_element.bytes();
                let out = out.part(offset, out.bytes() - offset);
                let shape = ProductShape { n: num_rows, ..shape };
                let (end, weight_state) = (End::Store, WeightState::Fresh);
                let product = Product { shape, ranges: [panel, x, out], end, weight_state };
                self.products.multiply(&self.kernels, &product)?;
            }
        }
        Ok(())
    }

    /// Bytes of the panel that a product of so many rows with a loaded weight needs.
    pub(crate) fn panel_bytes(&self, weight: &Weight, rows: usize) -> usize {
        if self.arithmetic.multiplies_directly(rows) || weight.as_dense().is_some() {
            return 0;
        }
        panel_bytes_of(weight.parts.iter().map(|part| part.rows), weight.k, self.element)
    }
}

/// See [`CudaBackend::multiply`].
pub(crate) struct Multiply<'a> {
    /// `[rows, k]`
    pub(crate) x: DeviceRange,
    pub(crate) weight: &'a Weight,
    /// `[rows, n]`
    pub(crate) out: DeviceRange,
    pub(crate) out_element: Element,
    pub(crate) rows: usize,
    pub(crate) panel: Option<DeviceRange>,
}

/// Rows of a weight that are expanded at a time.
fn panel_rows(n: usize, k: usize, element: Element) -> usize {
    // Whole tiles of cuBLASLt's kernels.
    const MULTIPLE: usize = 256;
    n.min((MAX_PANEL_BYTES / (k * element.bytes())).next_multiple_of(MULTIPLE))
}

impl Arithmetic {
    /// Whether so many rows are multiplied with quantised weights as they are stored: the sums have another order than those
    /// of many rows.
    fn multiplies_directly(self, rows: usize) -> bool {
        self == Self::Fastest && rows <= PW_MAX_QUANTISED_ROWS as usize
    }
}

/// Bytes of the largest panel of a weight's parts; zero if all are dense, or if `rows` rows are multiplied directly.
pub(crate) fn panel_bytes(parts: &[WeightPart<'_>], element: Element, arithmetic: Arithmetic, rows: usize) -> usize {
    if arithmetic.multiplies_directly(rows) || Weight::is_dense(parts) {
        return 0;
    }
    // What cannot be loaded needs no panel.
    Weight::part_rows(parts).map_or(0, |rows| panel_bytes_of(rows.into_iter(), parts[0].cols, element))
}

fn panel_bytes_of(parts: impl Iterator<Item = PartRows>, k: usize, element: Element) -> usize {
    parts.map(|part| panel_rows(part.num, k, element) * k * element.bytes()).max().unwrap_or(0)
}

/// Rows of a gated product that are made at a time: enough to fill the GPU, few enough for their halves to take little room.
pub(crate) const MAX_GATED_ROWS: usize = 2048;

/// Bytes of both halves of a gated product, before they become one.
pub(crate) fn gated_bytes(n: usize, element: Element, rows: usize) -> usize {
    (rows.min(MAX_GATED_ROWS) * n * element.bytes()).next_multiple_of(256)
}
