//! The inner loops, and the only `unsafe` of this crate: strided views, and instructions that not every machine has.
//!
//! Each loop exists in a plain version and in vector versions that give the same bits: integer sums are exact, and every
//! floating-point result is one chain of fused multiply-adds in a fixed order, whatever the width of a vector. A [`Path`]
//! says which version runs; it can be had only for instructions that the machine has.
#![allow(unsafe_code)]

mod matrix;
mod rows;
mod tile;

pub(crate) use matrix::{Matrix, MatrixMut};
pub(crate) use rows::{Softmax, quantise_row, rms_norm_row, silu_mul, softmax_chunk};
pub(crate) use tile::{Start, TileProduct, tile_product};

use crate::panel::{PANEL_ROWS, PanelBlock, plain_dot};
use crate::quantise::ActivationBlock;
use crate::{CpuError, Instructions};

/// Proof that the machine has some instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Path(Instructions);

impl Path {
    pub(crate) fn new(instructions: Instructions) -> Result<Self, CpuError> {
        if instructions.available() { Ok(Self(instructions)) } else { Err(CpuError::Instructions(instructions)) }
    }

    pub(crate) fn instructions(self) -> Instructions {
        self.0
    }
}

/// `out[r][lane] =` the product of row `lane` of a panel with row `r` of the activations, as many as `out` has rows.
pub(crate) fn panel_product<B: PanelBlock>(_path: Path, panel: &[B], x: &[ActivationBlock], mut out: MatrixMut<'_>) {
    let blocks = x.len() / out.rows();
    for row in 0..out.rows() {
        for (lane, out) in out.row_mut(row)[..PANEL_ROWS].iter_mut().enumerate() {
            *out = plain_dot(panel, lane, &x[row * blocks..][..blocks]);
        }
    }
}
