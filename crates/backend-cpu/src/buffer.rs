//! A matrix of activations. Knows rows and columns, not what they mean.

use core::ops::Range;

/// A row-major matrix of f32.
#[derive(Debug)]
pub struct Buffer {
    values: Vec<f32>,
    cols: usize,
}

impl Buffer {
    pub(crate) fn new(values: Vec<f32>, cols: usize) -> Self {
        Self { values, cols }
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }

    pub(crate) fn rows(&self, rows: Range<usize>) -> &[f32] {
        &self.values[rows.start * self.cols..rows.end * self.cols]
    }

    pub(crate) fn rows_mut(&mut self, rows: Range<usize>) -> &mut [f32] {
        &mut self.values[rows.start * self.cols..rows.end * self.cols]
    }

    pub(crate) fn write(&mut self, values: &[f32]) {
        self.values[..values.len()].copy_from_slice(values);
    }
}
