//! Random weights for models without any: seeded, made tensor by tensor. Knows shapes and formats, not what a tensor
//! is for.

use model_format::{TensorFormat, quantize};
use tensor_backend::{RandomElements, split_mix64};

/// The seed of the `index`-th tensor of a model.
pub(crate) fn tensor_seed(seed: u64, index: u64) -> u64 {
    split_mix64(seed ^ split_mix64(index))
}

/// The elements of a matrix of `cols` columns: of variance `1 / cols`, so that products keep the scale of their input and
/// activations stay finite however deep the model.
pub(crate) fn elements(seed: u64, cols: usize) -> RandomElements {
    RandomElements { seed, bound: (3.0 / cols as f32).sqrt() }
}

/// Bytes of a tensor. A vector is all ones: a norm's weight or a bias stands still.
pub(crate) fn tensor(seed: u64, format: TensorFormat, shape: &[usize]) -> Vec<u8> {
    let [rows, cols] = *shape else { return quantize(format, &vec![1.0; shape.iter().product()]) };
    let elements = elements(seed, cols);
    let mut row = vec![0.0; cols];
    let mut bytes = Vec::new();
    for index in 0..rows {
        for (x, counter) in row.iter_mut().zip((index * cols) as u64..) {
            *x = elements.element(counter);
        }
        bytes.extend(quantize(format, &row));
        // All rows are of one size: the first tells how much to reserve.
        bytes.reserve_exact(if index == 0 { bytes.len() * (rows - 1) } else { 0 });
    }
    bytes
}
