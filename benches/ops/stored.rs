//! Made-up weights as a file would store them, and made-up values. Knows formats, not what they are multiplied with.

use std::ops::Range;

use benches::random::Random;
use model_format::TensorFormat;
use tensor_backend::{RowOrder, WeightPart};

/// Rows that are drawn; all others repeat them. It takes long to quantise a large matrix, and no op compares rows.
const DRAWN_ROWS: usize = 64;

/// The size of a weight's elements, about that of trained ones: sums stay small however often an op is repeated.
const DEVIATION: f32 = 0.03;

/// A stored matrix.
pub(crate) struct StoredRows {
    bytes: Vec<u8>,
    format: TensorFormat,
    rows: usize,
    cols: usize,
}

impl StoredRows {
    /// Random elements in whole blocks of a format.
    pub(crate) fn random(format: TensorFormat, rows: usize, cols: usize, random: &mut Random) -> Self {
        let drawn = model_format::quantize(format, &normal(DRAWN_ROWS.min(rows) * cols, DEVIATION, random));
        let num_bytes = rows * format.row_bytes(cols).expect("a weight has whole blocks");
        let bytes = drawn.iter().copied().cycle().take(num_bytes).collect();
        Self { bytes, format, rows, cols }
    }

    pub(crate) fn num_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Some of the rows.
    pub(crate) fn part(&self, rows: Range<usize>) -> WeightPart<'_> {
        let row_bytes = self.bytes.len() / self.rows;
        WeightPart {
            bytes: &self.bytes[rows.start * row_bytes..rows.end * row_bytes],
            format: self.format,
            rows: rows.len(),
            cols: self.cols,
            order: RowOrder::Natural,
        }
    }
}

/// Values that are normally distributed around zero; the first ones again and again if there are many.
pub(crate) fn normal(len: usize, deviation: f32, random: &mut Random) -> Vec<f32> {
    const DRAWN: usize = 1 << 17;
    let drawn: Vec<f32> = (0..len.min(DRAWN)).map(|_| random.normal() as f32 * deviation).collect();
    drawn.iter().copied().cycle().take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_whole_and_repeat() {
        for format in TensorFormat::ALL {
            let stored = StoredRows::random(format, 130, 512, &mut Random::new(1));
            let row_bytes = format.row_bytes(512).expect("whole blocks");
            assert_eq!(stored.num_bytes() as usize, 130 * row_bytes);
            let (first, again) = (stored.part(1..3), stored.part(65..67));
            assert_eq!((first.rows, first.bytes.len()), (2, 2 * row_bytes));
            assert_eq!(first.bytes, again.bytes);
            let mut values = vec![0.0; 512];
            model_format::dequantize(format, stored.part(0..1).bytes, &mut values);
            let size = (values.iter().map(|value| value * value).sum::<f32>() / 512.0).sqrt();
            assert!((0.02..0.04).contains(&size), "{format}: {size}");
        }
    }
}
