//! A matrix of activations. Knows rows and columns, not what they mean.

use core::ops::Range;

use crate::CpuError;
use crate::memory::{bytes_of, zeroed};

/// A row-major matrix of f32.
#[derive(Debug)]
pub struct Buffer {
    values: Vec<f32>,
    cols: usize,
}

impl Buffer {
    pub(crate) fn new(rows: usize, cols: usize) -> Result<Self, CpuError> {
        Ok(Self { values: zeroed(rows * cols, 0.0, "a buffer")?, cols })
    }

    pub(crate) fn bytes(&self) -> u64 {
        bytes_of(&self.values)
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
