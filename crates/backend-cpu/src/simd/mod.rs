//! The inner loops. Their `unsafe` is strided views, and instructions that not every machine has.
//!
//! Each loop exists in a plain version and in vector versions that give the same bits: integer sums are exact, and every
//! floating-point result is one chain of fused multiply-adds in a fixed order, whatever the width of a vector. A [`Path`]
//! says which version runs; it can be had only for instructions that the machine has.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod blocks;
mod columns;
#[cfg(target_arch = "x86_64")]
mod isa;
mod matrix;
mod operand;
mod peak;
mod quantise;
mod rows;
mod softmax;
mod tile;
mod words;

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use crate::panel::PanelBlock as VectorBlock;
#[cfg(target_arch = "x86_64")]
pub(crate) use blocks::VectorBlock;
pub(crate) use columns::{COLUMN, Column, ColumnsProduct, columns_product};
pub(crate) use matrix::{Matrix, MatrixMut};
pub(crate) use operand::{Operand, VectorNumber};
pub(crate) use peak::{DotProducts, MultiplyAdds, Reads, keep_busy, multiply_brains};
pub(crate) use quantise::quantise_row;
pub(crate) use rows::{
    add_row, rms_norm_in_place, rms_norm_row, rotate_heads, round_row, round_to_pairs, round_to_singles, scale_and_add,
    scale_row, silu_mul,
};
pub(crate) use softmax::Softmax;
pub(crate) use tile::{Start, TileProduct, tile_product};
pub(crate) use words::{BLOCK_WORDS, as_blocks};

use crate::pairs::Words;
use crate::panel::{PANEL_ROWS, plain_dot};
use crate::quantise::{ActivationBlock, BLOCK};
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

    /// How products of bfloat16 take their activations.
    pub(crate) fn words(self) -> Words {
        if self.0 == Instructions::Avx512Bf16 { Words::Pairs } else { Words::Singles }
    }
}

/// `out[r][lane] =` the product of row `lane` of a panel with row `r` of the activations, as many as `out` has rows.
pub(crate) fn panel_product<B: VectorBlock>(path: Path, panel: &[B], x: &[ActivationBlock], mut out: MatrixMut<'_>) {
    let per_row = panel.len() * (B::WIDTH / BLOCK);
    assert_eq!(x.len(), out.rows() * per_row);
    assert!(out.cols() >= PANEL_ROWS);
    match path.instructions() {
        // SAFETY: the path proves that the machine has these instructions.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { blocks::product_avx2(panel, x, &mut out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 | Instructions::Avx512Bf16 => unsafe { blocks::product_avx512(panel, x, &mut out) },
        _ => {
            for (row, x) in x.chunks_exact(per_row).enumerate() {
                for (lane, out) in out.row_mut(row)[..PANEL_ROWS].iter_mut().enumerate() {
                    *out = plain_dot(panel, lane, x);
                }
            }
        }
    }
}
