//! The stored element formats of weight tensors and the sizes of their blocks. It knows no arithmetic (see
//! [`dequantize`](crate::dequantize) and [`quantize`](crate::quantize)) and no file headers.

use std::fmt;

/// A stored tensor element format, with its exact block layout.
///
/// The quantised formats are those of ggml: a row is a sequence of blocks, and a block holds one or two scales and the
/// small integers that they multiply. All numbers are little endian; `d`, `m` and `dmin` below are 16-bit floats.
/// Nibble `j` of a 32-element block holds element `j` in its low half and element `j + 16` in its high half.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum TensorFormat {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single-precision float.
    BF16,
    /// 32 elements in 18 bytes: `d`, 16 bytes of nibbles. `x = d * (q - 8)`.
    Q4_0,
    /// 32 elements in 20 bytes: `d`, `m`, 16 bytes of nibbles. `x = d * q + m`.
    Q4_1,
    /// 32 elements in 22 bytes: `d`, 32 fifth bits, 16 bytes of nibbles. `x = d * (q - 16)`.
    Q5_0,
    /// 32 elements in 24 bytes: `d`, `m`, 32 fifth bits, 16 bytes of nibbles. `x = d * q + m`.
    Q5_1,
    /// 32 elements in 34 bytes: `d`, 32 signed bytes. `x = d * q`.
    Q8_0,
    /// 256 elements in 144 bytes: `d`, `dmin`, 12 bytes with eight 6-bit scales `s` and minima `m`, 128 bytes of
    /// nibbles. For each 32 elements `x = (d * s) * q - dmin * m`.
    Q4K,
    /// 256 elements in 176 bytes: as [`Q4K`](Self::Q4K), with 32 bytes of fifth bits before the nibbles.
    Q5K,
    /// 256 elements in 210 bytes: 128 bytes of low nibbles, 64 bytes of upper bit pairs, 16 signed scales `s`, `d`.
    /// For each 16 elements `x = (d * s) * (q - 32)`.
    Q6K,
}

impl TensorFormat {
    /// Every format.
    pub const ALL: [Self; 11] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
    ];

    /// Elements in a block: 1, 32 or 256.
    pub const fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Bytes of a row of `cols` elements. `None` where `cols` is not a multiple of [`block_len`](Self::block_len) (a
    /// block never spans rows), or where the size overflows.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if !cols.is_multiple_of(self.block_len()) {
            return None;
        }
        (cols / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Bytes of a tensor of this shape, outermost dimension first; the innermost one is the row. A tensor without
    /// dimensions has one element. `None` as for [`row_bytes`](Self::row_bytes).
    pub(crate) fn tensor_bytes(self, shape: &[usize]) -> Option<usize> {
        let (cols, outer) = match shape {
            [] => (1, shape),
            [outer @ .., cols] => (*cols, outer),
        };
        outer.iter().try_fold(self.row_bytes(cols)?, |bytes, &dim| bytes.checked_mul(dim))
    }

    /// The name in files and messages, as ggml spells it: `Q4_K`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        }
    }
}

impl fmt::Display for TensorFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
