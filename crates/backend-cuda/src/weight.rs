//! Weights on the device: dense ones in the activations' element, quantised ones in the kernels' layout of their own format.
//! Knows formats and row order, not tensor names.

use std::sync::Arc;

use half::{bf16, f16};
use kernels_sys::{
    PW_Q4_0, PW_Q4_1, PW_Q4_K, PW_Q6_K, PW_Q8_0, PW_QUANTISED_TILE_ROWS, PwFillRandom, PwQuantised, PwQuantisedPack,
    PwWeightFormat,
};
use model_format::TensorFormat;
use tensor_backend::{Element, RandomElements, WeightPart};

use crate::CudaError;
use crate::buffer::element_code;
use crate::driver::{Device, DeviceMemory, DeviceRange};
use crate::kernels::Kernels;
use crate::uploader::Uploader;

/// `[n, k]`, of parts that lie one after another along `n`: each is one product.
#[derive(Debug)]
pub struct Weight {
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) parts: Vec<Part>,
}

/// Rows of a weight that are stored alike, in one piece of memory.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) rows: PartRows,
    memory: DeviceMemory,
}

/// Which rows of a weight a part is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PartRows {
    pub(crate) first: usize,
    pub(crate) num: usize,
    format: PartFormat,
}

/// How a part lies on the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum PartFormat {
    Dense,
    Quantised(PwWeightFormat),
}

impl PartFormat {
    /// Bytes of so many rows, none included.
    fn bytes(self, kernels: &Kernels, rows: usize, k: usize, element: Element) -> usize {
        match self {
            _ if rows == 0 => 0,
            Self::Dense => rows * k * element.bytes(),
            Self::Quantised(format) => kernels.quantised_bytes(format, rows, k).expect("rows of whole blocks"),
        }
    }

    /// Whether rows of this format may follow so many of the same in one piece of memory.
    fn continues_after(self, rows: usize) -> bool {
        match self {
            Self::Dense => true,
            Self::Quantised(_) => rows.is_multiple_of(PW_QUANTISED_TILE_ROWS as usize),
        }
    }

    fn of(format: TensorFormat) -> Result<Self, CudaError> {
        Ok(Self::Quantised(match format {
            TensorFormat::F32 | TensorFormat::F16 | TensorFormat::BF16 => return Ok(Self::Dense),
            TensorFormat::Q4_0 => PW_Q4_0,
            TensorFormat::Q4_1 => PW_Q4_1,
            TensorFormat::Q8_0 => PW_Q8_0,
            TensorFormat::Q4K => PW_Q4_K,
            TensorFormat::Q6K => PW_Q6_K,
            other => return Err(CudaError::WeightFormat(other)),
        } as PwWeightFormat))
    }
}

/// A part as the products take it.
pub(crate) enum PartView {
    /// `[rows, k]` of the activations' element.
    Dense(DeviceRange),
    Quantised(PwQuantised),
}

impl Part {
    pub(crate) fn view(&self, k: usize) -> PartView {
        match self.rows.format {
            PartFormat::Dense => PartView::Dense(self.memory.range()),
            PartFormat::Quantised(format) => PartView::Quantised(PwQuantised {
                weight: self.memory.range().as_ptr(),
                n: self.rows.num as i32,
                k: k as i32,
                format,
            }),
        }
    }
}

impl Weight {
    pub(crate) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.memory.bytes() as u64).sum()
    }

    /// The single dense matrix, if that is what it is.
    pub(crate) fn as_dense(&self) -> Option<DeviceRange> {
        match self.parts.as_slice() {
            [part] if part.rows.format == PartFormat::Dense => Some(part.memory.range()),
            _ => None,
        }
    }

    /// Bytes of a weight that is not loaded yet. One in a format without a kernel is refused when it is loaded, and counts
    /// nothing.
    pub(crate) fn planned_bytes(kernels: &Kernels, parts: &[WeightPart<'_>], element: Element) -> u64 {
        let Ok(rows) = Self::part_rows(parts) else { return 0 };
        rows.iter().map(|part| part.format.bytes(kernels, part.num, parts[0].cols, element) as u64).sum()
    }

    /// Whether all of it is one dense matrix.
    pub(crate) fn is_dense(parts: &[WeightPart<'_>]) -> bool {
        parts.iter().all(|part| matches!(PartFormat::of(part.format), Ok(PartFormat::Dense)))
    }

    /// The parts on the device: neighbours that are stored alike become one, so that one product reads them.
    pub(crate) fn part_rows(parts: &[WeightPart<'_>]) -> Result<Vec<PartRows>, CudaError> {
        let mut all: Vec<PartRows> = Vec::new();
        let mut first = 0;
        for part in parts {
            let format = PartFormat::of(part.format)?;
            match all.last_mut() {
                Some(last) if last.format == format && format.continues_after(last.num) => last.num += part.rows,
                _ => all.push(PartRows { first, num: part.rows, format }),
            }
            first += part.rows;
        }
        Ok(all)
    }

    /// Memory for the parts.
    fn alloc(
        device: &Arc<Device>,
        kernels: &Kernels,
        parts: &[WeightPart<'_>],
        element: Element,
    ) -> Result<Self, CudaError> {
        let k = parts[0].cols;
        assert!(parts.iter().all(|part| part.cols == k), "all parts have the same inputs");
        let n = parts.iter().map(|part| part.rows).sum();
        let parts = Self::part_rows(parts)?
            .into_iter()
            .map(|rows| {
                let bytes = rows.format.bytes(kernels, rows.num, k, element);
                Ok(Part { rows, memory: DeviceMemory::zeroed(device, bytes, "weights")? })
            })
            .collect::<Result<_, CudaError>>()?;
        Ok(Self { n, k, parts })
    }

    /// Where rows that were given as one part lie.
    fn range(&self, kernels: &Kernels, first_row: usize, rows: usize, element: Element) -> DeviceRange {
        let part = self.parts.iter().rfind(|part| part.rows.first <= first_row).expect("a row of the weight");
        let bytes = |rows| part.rows.format.bytes(kernels, rows, self.k, element);
        part.memory.range().part(bytes(first_row - part.rows.first), bytes(rows))
    }
}

/// Makes weights on the device from stored parts.
#[derive(Debug)]
pub(crate) struct WeightLoader {
    uploader: Uploader,
    device: Arc<Device>,
    element: Element,
}

impl WeightLoader {
    pub(crate) fn new(device: &Arc<Device>, element: Element) -> Self {
        Self { uploader: Uploader::new(device), device: Arc::clone(device), element }
    }

    /// Loads parts with their bytes.
    pub(crate) fn load(&mut self, kernels: &Kernels, parts: &[WeightPart<'_>]) -> Result<Weight, CudaError> {
        let weight = Weight::alloc(&self.device, kernels, parts, self.element)?;
        let mut first_row = 0;
        for part in parts {
            let to = weight.range(kernels, first_row, part.rows, self.element);
            match PartFormat::of(part.format)? {
                PartFormat::Dense => self.send_dense(part, to)?,
                PartFormat::Quantised(format) => self.pack(kernels, part, to, format)?,
            }
            first_row += part.rows;
        }
        Ok(weight)
    }

    /// Makes parts with random elements on the device.
    pub(crate) fn make_random(
        &self,
        kernels: &Kernels,
        parts: &[(WeightPart<'_>, RandomElements)],
    ) -> Result<Weight, CudaError> {
        let shapes: Vec<WeightPart<'_>> = parts.iter().map(|(part, _)| *part).collect();
        let weight = Weight::alloc(&self.device, kernels, &shapes, self.element)?;
        let mut first_row = 0;
        for (part, elements) in parts {
            kernels.fill_random(&PwFillRandom {
                out: weight.range(kernels, first_row, part.rows, self.element).as_ptr(),
                num_elements: (part.rows * part.cols) as i64,
                seed: elements.seed,
                bound: elements.bound,
                element: element_code(self.element),
            })?;
            first_row += part.rows;
        }
        Ok(weight)
    }

    /// Rows in the order of the model, converted to the activations' element.
    fn send_dense(&mut self, part: &WeightPart<'_>, to: DeviceRange) -> Result<(), CudaError> {
        let stored_bytes = part.format.row_bytes(part.cols).expect("a dense row has a size");
        let row_bytes = part.cols * self.element.bytes();
        let element = self.element;
        self.uploader.send(part.rows, row_bytes, to, |row, out| {
            let stored = &part.bytes[part.order.stored_row(row) * stored_bytes..][..stored_bytes];
            convert(part.format, stored, element, out);
        })
    }

    /// Stored rows travel as they are, in the order of the model, and are laid out anew on the device.
    fn pack(
        &mut self,
        kernels: &Kernels,
        part: &WeightPart<'_>,
        to: DeviceRange,
        format: PwWeightFormat,
    ) -> Result<(), CudaError> {
        let row_bytes = part.format.row_bytes(part.cols).expect("whole blocks");
        let stored = DeviceMemory::zeroed(&self.device, part.rows * row_bytes, "weights on their way")?;
        self.uploader.send(part.rows, row_bytes, stored.range(), |row, out| {
            out.copy_from_slice(&part.bytes[part.order.stored_row(row) * row_bytes..][..row_bytes]);
        })?;
        kernels.quantised_pack(&PwQuantisedPack {
            stored: stored.range().as_ptr(),
            weight: to.as_ptr(),
            n: part.rows as i32,
            k: part.cols as i32,
            format,
        })?;
        // The stored bytes are dropped here.
        self.device.synchronize()
    }
}

/// One row of floats in another element, rounded to the nearest.
fn convert(format: TensorFormat, stored: &[u8], element: Element, out: &mut [u8]) {
    match (format, element) {
        (TensorFormat::BF16, Element::BF16) | (TensorFormat::F16, Element::F16) | (TensorFormat::F32, Element::F32) => {
            out.copy_from_slice(stored);
        }
        (TensorFormat::BF16, _) => {
            convert_each(stored, |bytes| bf16::from_le_bytes(*bytes).to_f32(), element, out);
        }
        (TensorFormat::F16, _) => convert_each(stored, |bytes| f16::from_le_bytes(*bytes).to_f32(), element, out),
        (TensorFormat::F32, _) => convert_each(stored, |bytes| f32::from_le_bytes(*bytes), element, out),
        _ => unreachable!("only dense formats are converted"),
    }
}

fn convert_each<const N: usize>(stored: &[u8], value: impl Fn(&[u8; N]) -> f32, element: Element, out: &mut [u8]) {
    let values = stored.as_chunks::<N>().0.iter().map(value);
    match element {
        Element::F32 => out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, v)| *out = v.to_le_bytes()),
        Element::F16 => {
            out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, v)| *out = f16::from_f32(v).to_le_bytes());
        }
        Element::BF16 => {
            out.as_chunks_mut().0.iter_mut().zip(values).for_each(|(out, v)| *out = bf16::from_f32(v).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_converted_to_the_nearest_element() {
        let values = [1.0_f32, -2.5, 0.333_333_34, 65_504.0];
        let f32_bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        for (element, format) in
            [(Element::BF16, TensorFormat::BF16), (Element::F16, TensorFormat::F16), (Element::F32, TensorFormat::F32)]
        {
            let mut out = vec![0; values.len() * element.bytes()];
            convert(TensorFormat::F32, &f32_bytes, element, &mut out);
            assert_eq!(out, model_format::quantize(format, &values), "{element:?}");
            let mut same = vec![0; out.len()];
            convert(format, &out, element, &mut same);
            assert_eq!(same, out, "{element:?}");
        }
    }

    fn part_rows(parts: &[(TensorFormat, usize)]) -> Vec<(usize, usize)> {
        let order = tensor_backend::RowOrder::Natural;
        let parts: Vec<_> =
            parts.iter().map(|&(format, rows)| WeightPart { bytes: &[], format, rows, cols: 256, order }).collect();
        Weight::part_rows(&parts).expect("formats with kernels").iter().map(|part| (part.first, part.num)).collect()
    }

    #[test]
    fn neighbours_of_one_format_are_one_part() {
        use TensorFormat::{BF16, F32, Q4K, Q6K};
        assert_eq!(part_rows(&[(Q4K, 32), (Q4K, 16), (Q6K, 16)]), [(0, 48), (48, 16)]);
        assert_eq!(part_rows(&[(Q4K, 32), (Q6K, 16), (Q4K, 32)]), [(0, 32), (32, 16), (48, 32)]);
        assert_eq!(part_rows(&[(F32, 5), (BF16, 7), (Q4K, 16)]), [(0, 12), (12, 16)]);
    }

    #[test]
    fn a_part_that_ends_within_a_tile_is_the_last_of_its_piece() {
        use TensorFormat::Q4K;
        assert_eq!(part_rows(&[(Q4K, 16), (Q4K, 17), (Q4K, 15), (Q4K, 1)]), [(0, 33), (33, 15), (48, 1)]);
    }
}
