//! What a product is in double precision, and how far single precision and quantised activations may be from that. Knows
//! stored formats, and the arithmetic that `backend_cpu` documents.

use backend_cpu::Precision;
use model_format::TensorFormat;

use crate::case::{BLOCK, Case, parts_of};

/// Below this a block of activations counts as zeros.
const ZERO_BELOW: f64 = 1e-36;

/// Below this, weights in bfloat16 and the activations that meet them count as zeros: 2^-56.
const SMALLEST_BFLOAT16: f64 = 1.0 / (1_u64 << 56) as f64;

/// Where terms or partial sums may exceed single precision, nothing is said of the value.
const LARGEST: f64 = 1e37;

/// What is known of an element.
pub(crate) enum Verdict {
    /// A NaN or an infinity takes part: it is neither.
    Spoiled,
    /// It is this close to the value.
    Within { value: f64, error: f64 },
    /// It may have overflown on the way.
    TooLarge,
}

/// The weights and activations of a case.
pub(crate) struct Reference<'a> {
    case: &'a Case,
    x: &'a [f32],
    /// `[n, k]`, dequantised.
    weights: Vec<f32>,
    /// `[n, k]`: bounds of a weight's terms, scaled quant and minimum, which may cancel in it.
    magnitudes: Vec<f32>,
}

impl<'a> Reference<'a> {
    pub(crate) fn new(case: &'a Case, stored: &[u8], x: &'a [f32]) -> Self {
        let dequantised = |stored: &[u8]| {
            let mut values = vec![0.0; case.n * case.k];
            model_format::dequantize(case.format, stored, &mut values);
            values
        };
        let weights = dequantised(stored);
        let magnitudes = if case.format.block_len() == 1 {
            weights.iter().map(|weight| weight.abs()).collect()
        } else {
            // With the quants at either end of their range; one of them leaves the minimum alone.
            let [low, high] = ends_of(case.format).map(|end| dequantised(&with_quants(case.format, stored, end)));
            low.iter().zip(&high).map(|(low, high)| low.abs() + high.abs()).collect()
        };
        Self { case, x, weights, magnitudes }
    }

    pub(crate) fn verdict(&self, row: usize, output: usize) -> Verdict {
        let k = self.case.k;
        let (x, weights) = (&self.x[row * k..][..k], &self.weights[output * k..][..k]);
        if !x.iter().chain(weights).all(|value| value.is_finite()) {
            return Verdict::Spoiled;
        }
        let quantised = self.case.precision == Precision::Native && self.case.format.block_len() > 1;
        let rounded = self.case.precision == Precision::Native && self.case.format == TensorFormat::BF16;
        let magnitudes = &self.magnitudes[output * k..][..k];
        let (mut value, mut error, mut size, mut reach) = (0.0, 0.0, 0.0, 0.0);
        let blocks = x.chunks(BLOCK).zip(weights.chunks(BLOCK)).zip(magnitudes.chunks(BLOCK));
        for ((x, weights), magnitudes) in blocks {
            let max = x.iter().fold(0.0, |max: f64, x| max.max(f64::from(x.abs())));
            let terms = || x.iter().zip(weights).map(|(x, weight)| (f64::from(*x), f64::from(*weight)));
            value += terms().map(|(x, weight)| x * weight).sum::<f64>();
            if quantised {
                // Half a step, and the rounding of the step itself.
                let step = if max <= ZERO_BELOW { max } else { max / 127.0 * 0.5001 };
                error += step * terms().map(|(_, weight)| weight.abs()).sum::<f64>();
                let largest = magnitudes.iter().fold(0.0, |max: f64, value| max.max(f64::from(*value)));
                size += max * BLOCK as f64 * largest;
                // The sum of the activations is formed before it meets a minimum.
                reach += max * BLOCK as f64 * largest.max(1.0);
            } else {
                size += terms().map(|(x, weight)| (x * weight).abs()).sum::<f64>();
                reach = size;
            }
            if rounded {
                reach = reach.max(max);
                // Half a step of eight bits, and elements that count as zeros.
                error += terms().map(|(x, weight)| (x * weight).abs() / 256.0).sum::<f64>();
                error += SMALLEST_BFLOAT16 * terms().map(|(x, weight)| x.abs() + weight.abs()).sum::<f64>();
            }
        }
        if reach > LARGEST {
            return Verdict::TooLarge;
        }
        // A rounding at each multiply-add, and what vanishes below the denormal numbers.
        let num_sums = (k + 4) as f64;
        error += num_sums * (size * f64::from(f32::EPSILON) + f64::from(f32::MIN_POSITIVE));
        Verdict::Within { value, error }
    }
}

/// The bytes of the least and of the greatest quants.
fn ends_of(format: TensorFormat) -> [u8; 2] {
    if format == TensorFormat::Q8_0 { [0x80, 0x7F] } else { [0x00, 0xFF] }
}

/// Stored blocks with other quants.
fn with_quants(format: TensorFormat, stored: &[u8], quant: u8) -> Vec<u8> {
    let mut bytes = stored.to_vec();
    for block in bytes.chunks_exact_mut(format.block_bytes()) {
        block[parts_of(format).0].fill(quant);
    }
    bytes
}
