//! Random weights for models without any: seeded, made tensor by tensor. Knows shapes and formats, not what a tensor
//! is for.

use model_format::{TensorFormat, quantize};

/// The seed of the `index`-th tensor of a model.
pub(crate) fn tensor_seed(seed: u64, index: u64) -> u64 {
    mix(seed ^ mix(index))
}

/// Bytes of a tensor. A vector is all ones: a norm's weight or a bias stands still. The elements of a matrix are uniform
/// with variance `1 / cols`, so that products keep the scale of their input and activations stay finite however deep the
/// model.
pub(crate) fn tensor(seed: u64, format: TensorFormat, shape: &[usize]) -> Vec<u8> {
    let [rows, cols] = *shape else { return quantize(format, &vec![1.0; shape.iter().product()]) };
    let bound = (3.0 / cols as f32).sqrt();
    let mut row = vec![0.0; cols];
    let mut bytes = Vec::new();
    for index in 0..rows {
        for (x, counter) in row.iter_mut().zip((index * cols) as u64..) {
            *x = bound * uniform(mix(seed.wrapping_add(counter)));
        }
        bytes.extend(quantize(format, &row));
        // All rows are of one size: the first tells how much to reserve.
        bytes.reserve_exact(if index == 0 { bytes.len() * (rows - 1) } else { 0 });
    }
    bytes
}

/// In `[-1, 1)`, from the upper 24 bits.
fn uniform(bits: u64) -> f32 {
    (bits >> 40) as f32 * (2.0 / (1_u64 << 24) as f32) - 1.0
}

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014) at state `x`.
fn mix(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
