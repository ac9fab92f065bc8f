//! Quantised weights as panels of 16 rows, and the plain product with quantised activations. Knows stored block formats
//! and lanes, not models or threads.
//!
//! A panel interleaves 16 rows, one to a 32-bit lane of a vector register, so that one instruction multiplies four
//! consecutive elements of all of them and sums stay in their lanes. The panel is an array of blocks along the columns;
//! block types differ in how quants are packed ([`Quants`]) and in their scales ([`PanelBlock`]).
//!
//! The value of a weight is `scale * quant + min`, with the quant an integer once its offset is taken off.

use half::f16;
#[cfg(test)]
use model_format::TensorFormat;

use crate::quantise::{ActivationBlock, BLOCK};

/// Rows of a panel.
pub(crate) const PANEL_ROWS: usize = 16;

/// Bytes of a vector that holds four elements of each row of a panel.
const VECTOR: usize = 4 * PANEL_ROWS;

/// How 32 unsigned quants of each of 16 rows are packed.
///
/// Vector `v` of eight holds elements `4 v .. 4 v + 4`; byte `4 * lane + i` of it is element `4 v + i` of row `lane`.
pub(crate) trait Quants: Copy + Send + Sync + 'static {
    /// All zero.
    const ZERO: Self;
    /// Stored quants are above the true ones by this.
    const OFFSET: i32;

    fn set(&mut self, lane: usize, element: usize, stored: u8);

    fn get(&self, lane: usize, element: usize) -> u8;
}

/// 4 bits: byte `b` of vector `v < 4` has vector `v` in its low nibble and vector `v + 4` in its high one.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Quants4<const OFFSET: i32> {
    pub(crate) nibbles: [[u8; VECTOR]; 4],
}

/// 5 bits: nibbles, and bit `v` of byte `b` of `high` is the fifth bit of byte `b` of vector `v`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Quants5<const OFFSET: i32> {
    pub(crate) low: Quants4<0>,
    pub(crate) high: [u8; VECTOR],
}

/// 6 bits: nibbles, and bits `2 v` and `2 v + 1` of byte `b` of `high[0]` are the upper bits of byte `b` of vector `v < 4`,
/// those of `high[1]` of vector `v + 4`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Quants6 {
    pub(crate) low: Quants4<0>,
    pub(crate) high: [[u8; VECTOR]; 2],
}

/// Signed bytes, stored as they are; `get` and `set` see them with 128 added.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Quants8 {
    pub(crate) bytes: [[u8; VECTOR]; 8],
}

/// Where an element lies: its vector and the byte in it.
fn place(lane: usize, element: usize) -> (usize, usize) {
    (element / 4, lane * 4 + element % 4)
}

impl<const OFFSET: i32> Quants for Quants4<OFFSET> {
    const ZERO: Self = Self { nibbles: [[0; VECTOR]; 4] };
    const OFFSET: i32 = OFFSET;

    fn set(&mut self, lane: usize, element: usize, stored: u8) {
        let (vector, byte) = place(lane, element);
        let shift = vector / 4 * 4;
        let target = &mut self.nibbles[vector % 4][byte];
        *target = *target & !(0xF << shift) | (stored & 0xF) << shift;
    }

    fn get(&self, lane: usize, element: usize) -> u8 {
        let (vector, byte) = place(lane, element);
        self.nibbles[vector % 4][byte] >> (vector / 4 * 4) & 0xF
    }
}

impl<const OFFSET: i32> Quants for Quants5<OFFSET> {
    const ZERO: Self = Self { low: Quants4::ZERO, high: [0; VECTOR] };
    const OFFSET: i32 = OFFSET;

    fn set(&mut self, lane: usize, element: usize, stored: u8) {
        let (vector, byte) = place(lane, element);
        self.low.set(lane, element, stored & 0xF);
        let target = &mut self.high[byte];
        *target = *target & !(1 << vector) | (stored >> 4 & 1) << vector;
    }

    fn get(&self, lane: usize, element: usize) -> u8 {
        let (vector, byte) = place(lane, element);
        self.low.get(lane, element) | (self.high[byte] >> vector & 1) << 4
    }
}

impl Quants for Quants6 {
    const ZERO: Self = Self { low: Quants4::ZERO, high: [[0; VECTOR]; 2] };
    const OFFSET: i32 = 32;

    fn set(&mut self, lane: usize, element: usize, stored: u8) {
        let (vector, byte) = place(lane, element);
        self.low.set(lane, element, stored & 0xF);
        let shift = vector % 4 * 2;
        let target = &mut self.high[vector / 4][byte];
        *target = *target & !(3 << shift) | (stored >> 4 & 3) << shift;
    }

    fn get(&self, lane: usize, element: usize) -> u8 {
        let (vector, byte) = place(lane, element);
        self.low.get(lane, element) | (self.high[vector / 4][byte] >> (vector % 4 * 2) & 3) << 4
    }
}

impl Quants for Quants8 {
    const ZERO: Self = Self { bytes: [[0; VECTOR]; 8] };
    const OFFSET: i32 = 128;

    fn set(&mut self, lane: usize, element: usize, stored: u8) {
        let (vector, byte) = place(lane, element);
        self.bytes[vector][byte] = stored ^ 0x80;
    }

    fn get(&self, lane: usize, element: usize) -> u8 {
        let (vector, byte) = place(lane, element);
        self.bytes[vector][byte] ^ 0x80
    }
}

/// 32 weights of one row, unpacked: `weight[i] = scale * factors[i / 16] * quants[i] + min`.
pub(crate) struct PlainBlock {
    pub(crate) quants: [i32; BLOCK],
    pub(crate) factors: [i32; 2],
    pub(crate) scale: f32,
    pub(crate) min: Option<f32>,
}

/// A block of columns of a panel.
pub(crate) trait PanelBlock: Copy + Send + Sync + 'static {
    /// Columns in it.
    const WIDTH: usize;
    /// The block of rows that are not there.
    const ZERO: Self;

    /// Takes a stored block as row `lane`.
    fn pack(&mut self, lane: usize, stored: &[u8]);

    /// Columns `32 part .. 32 (part + 1)` of row `lane`.
    fn plain(&self, lane: usize, part: usize) -> PlainBlock;
}

fn f16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn widen(bits: u16) -> f32 {
    f16::from_bits(bits).to_f32()
}

fn true_quants<Q: Quants>(quants: &Q, lane: usize) -> [i32; BLOCK] {
    core::array::from_fn(|element| i32::from(quants.get(lane, element)) - Q::OFFSET)
}

/// Sets the 32 elements of a row whose low nibbles, in ggml's order, are `nibbles` and whose fifth bits are `high`.
fn set_nibbles<Q: Quants>(quants: &mut Q, lane: usize, nibbles: &[u8], high: u32) {
    for element in 0..BLOCK {
        let nibble = nibbles[element % 16] >> (element / 16 * 4) & 0xF;
        quants.set(lane, element, nibble | ((high >> element & 1) << 4) as u8);
    }
}

/// A stored block of 32 elements: its scale, its minimum if it has one, and its quants.
pub(crate) trait StoredQuants: Quants {
    fn set_all(&mut self, lane: usize, stored: &[u8]);
}

impl<const OFFSET: i32> StoredQuants for Quants4<OFFSET> {
    fn set_all(&mut self, lane: usize, stored: &[u8]) {
        set_nibbles(self, lane, stored, 0);
    }
}

impl<const OFFSET: i32> StoredQuants for Quants5<OFFSET> {
    fn set_all(&mut self, lane: usize, stored: &[u8]) {
        let high = u32::from_le_bytes([stored[0], stored[1], stored[2], stored[3]]);
        set_nibbles(self, lane, &stored[4..], high);
    }
}

impl StoredQuants for Quants8 {
    fn set_all(&mut self, lane: usize, stored: &[u8]) {
        for (element, &quant) in stored[..BLOCK].iter().enumerate() {
            self.set(lane, element, quant ^ 0x80);
        }
    }
}

/// One scale: Q4_0, Q5_0, Q8_0.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Symmetric<Q> {
    pub(crate) scales: [u16; PANEL_ROWS],
    pub(crate) quants: Q,
}

impl<Q: StoredQuants> PanelBlock for Symmetric<Q> {
    const WIDTH: usize = BLOCK;
    const ZERO: Self = Self { scales: [0; PANEL_ROWS], quants: Q::ZERO };

    fn pack(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = f16_at(stored, 0);
        self.quants.set_all(lane, &stored[2..]);
    }

    fn plain(&self, lane: usize, _part: usize) -> PlainBlock {
        let quants = true_quants(&self.quants, lane);
        PlainBlock { quants, factors: [1, 1], scale: widen(self.scales[lane]), min: None }
    }
}

/// A scale and a minimum: Q4_1, Q5_1.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Affine<Q> {
    pub(crate) scales: [u16; PANEL_ROWS],
    pub(crate) mins: [u16; PANEL_ROWS],
    pub(crate) quants: Q,
}

impl<Q: StoredQuants> PanelBlock for Affine<Q> {
    const WIDTH: usize = BLOCK;
    const ZERO: Self = Self { scales: [0; PANEL_ROWS], mins: [0; PANEL_ROWS], quants: Q::ZERO };

    fn pack(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = f16_at(stored, 0);
        self.mins[lane] = f16_at(stored, 2);
        self.quants.set_all(lane, &stored[4..]);
    }

    fn plain(&self, lane: usize, _part: usize) -> PlainBlock {
        let quants = true_quants(&self.quants, lane);
        let min = Some(widen(self.mins[lane]));
        PlainBlock { quants, factors: [1, 1], scale: widen(self.scales[lane]), min }
    }
}

/// Parts of 32 columns in a block of 256.
const PARTS: usize = 8;

/// Eight parts, each with a small integer scale and minimum of its own below those of the block: Q4_K, Q5_K.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Nested<Q> {
    pub(crate) scales: [u16; PANEL_ROWS],
    pub(crate) mins: [u16; PANEL_ROWS],
    pub(crate) parts: [NestedPart<Q>; PARTS],
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct NestedPart<Q> {
    pub(crate) scales: [u8; PANEL_ROWS],
    pub(crate) mins: [u8; PANEL_ROWS],
    pub(crate) quants: Q,
}

/// Quants of a format whose 256 elements share nibbles between parts.
pub(crate) trait NestedQuants: Quants {
    /// Bytes of fifth bits between the scales and the nibbles.
    const HIGH_BYTES: usize;
}

impl NestedQuants for Quants4<0> {
    const HIGH_BYTES: usize = 0;
}

impl NestedQuants for Quants5<0> {
    const HIGH_BYTES: usize = 32;
}

/// The 6-bit scale and minimum of part `part`; see ggml's `get_scale_min_k4`. Parts 0 to 3 lie in the low six bits of bytes
/// `part` and `part + 4`; the others in the nibbles of byte `part + 4`, their upper bits in the top of the former.
fn nested_scale_and_min(packed: &[u8], part: usize) -> (u8, u8) {
    if part < 4 {
        (packed[part] & 63, packed[part + 4] & 63)
    } else {
        let nibbles = packed[part + 4];
        ((nibbles & 0xF) | packed[part - 4] >> 6 << 4, nibbles >> 4 | packed[part] >> 6 << 4)
    }
}

impl<Q: NestedQuants> PanelBlock for Nested<Q> {
    const WIDTH: usize = PARTS * BLOCK;
    const ZERO: Self = Self {
        scales: [0; PANEL_ROWS],
        mins: [0; PANEL_ROWS],
        parts: [NestedPart { scales: [0; PANEL_ROWS], mins: [0; PANEL_ROWS], quants: Q::ZERO }; PARTS],
    };

    fn pack(&mut self, lane: usize, stored: &[u8]) {
        self.scales[lane] = f16_at(stored, 0);
        self.mins[lane] = f16_at(stored, 2);
        let packed_scales = &stored[4..16];
        let (high, nibbles) = stored[16..].split_at(Q::HIGH_BYTES);
        for (index, part) in self.parts.iter_mut().enumerate() {
            (part.scales[lane], part.mins[lane]) = nested_scale_and_min(packed_scales, index);
            for element in 0..BLOCK {
                // Two parts share 32 bytes of nibbles, and all eight the 32 bytes of fifth bits.
                let nibble = nibbles[index / 2 * BLOCK + element] >> (index % 2 * 4) & 0xF;
                let fifth = high.get(element).map_or(0, |bits| bits >> index & 1);
                part.quants.set(lane, element, nibble | fifth << 4);
            }
        }
    }

    fn plain(&self, lane: usize, part: usize) -> PlainBlock {
        let (scale, min) = (widen(self.scales[lane]), widen(self.mins[lane]));
        let part = &self.parts[part];
        PlainBlock {
            quants: true_quants(&part.quants, lane),
            factors: [1, 1],
            scale: scale * f32::from(part.scales[lane]),
            min: Some(-(min * f32::from(part.mins[lane]))),
        }
    }
}

/// Sixteen runs of 16 columns, each with a signed integer scale below that of the block: Q6_K.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct Runs {
    pub(crate) scales: [u16; PANEL_ROWS],
    pub(crate) parts: [RunPair; PARTS],
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(crate) struct RunPair {
    pub(crate) scales: [[i8; PANEL_ROWS]; 2],
    pub(crate) quants: Quants6,
}

impl PanelBlock for Runs {
    const WIDTH: usize = PARTS * BLOCK;
    const ZERO: Self = Self {
        scales: [0; PANEL_ROWS],
        parts: [RunPair { scales: [[0; PANEL_ROWS]; 2], quants: Quants6::ZERO }; PARTS],
    };

    fn pack(&mut self, lane: usize, stored: &[u8]) {
        let (low, high, scales) = (&stored[..128], &stored[128..192], &stored[192..208]);
        self.scales[lane] = f16_at(stored, 208);
        for (index, part) in self.parts.iter_mut().enumerate() {
            // Each half of the block has 64 low bytes and 32 high bytes for its four parts.
            let (half, quarter) = (index / 4, index % 4);
            let low = &low[half * 64 + quarter % 2 * BLOCK..];
            let high = &high[half * BLOCK..];
            for element in 0..BLOCK {
                let nibble = low[element] >> (quarter / 2 * 4) & 0xF;
                part.quants.set(lane, element, nibble | (high[element] >> (quarter * 2) & 3) << 4);
            }
            part.scales[0][lane] = scales[index * 2] as i8;
            part.scales[1][lane] = scales[index * 2 + 1] as i8;
        }
    }

    fn plain(&self, lane: usize, part: usize) -> PlainBlock {
        let pair = &self.parts[part];
        PlainBlock {
            quants: true_quants(&pair.quants, lane),
            factors: [0, 1].map(|run| i32::from(pair.scales[run][lane])),
            scale: widen(self.scales[lane]),
            min: None,
        }
    }
}

pub(crate) type PanelQ4_0 = Symmetric<Quants4<8>>;
pub(crate) type PanelQ5_0 = Symmetric<Quants5<16>>;
pub(crate) type PanelQ8_0 = Symmetric<Quants8>;
pub(crate) type PanelQ4_1 = Affine<Quants4<0>>;
pub(crate) type PanelQ5_1 = Affine<Quants5<0>>;
pub(crate) type PanelQ4K = Nested<Quants4<0>>;
pub(crate) type PanelQ5K = Nested<Quants5<0>>;
pub(crate) type PanelQ6K = Runs;

/// The dot product of row `lane` of a panel with a row of activations, plainly: per 32 columns the exact integer sum, then
/// single precision in ascending order. Every faster product equals this one bit for bit.
pub(crate) fn plain_dot<B: PanelBlock>(panel: &[B], lane: usize, x: &[ActivationBlock]) -> f32 {
    let mut sum = 0.0_f32;
    for (index, x) in x.iter().enumerate() {
        let parts = B::WIDTH / BLOCK;
        let weights = panel[index / parts].plain(lane, index % parts);
        let mut integer = 0;
        for (element, &quant) in x.quants.as_flattened().iter().enumerate() {
            integer += weights.factors[element / 16] * weights.quants[element] * i32::from(quant);
        }
        sum = (weights.scale * x.scale).mul_add(integer as f32, sum);
        if let Some(min) = weights.min {
            sum = min.mul_add(x.scaled_sum, sum);
        }
    }
    sum
}

/// Row `lane` of a panel as f32, exactly as [`model_format::dequantize`] gives it.
pub(crate) fn dequantise_row<B: PanelBlock>(panel: &[B], lane: usize, out: &mut [f32]) {
    for (index, out) in out.chunks_exact_mut(BLOCK).enumerate() {
        let parts = B::WIDTH / BLOCK;
        let weights = panel[index / parts].plain(lane, index % parts);
        for (element, value) in out.iter_mut().enumerate() {
            let scaled = weights.scale * weights.factors[element / 16] as f32 * weights.quants[element] as f32;
            *value = weights.min.map_or(scaled, |min| scaled + min);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<B: PanelBlock>(format: TensorFormat) {
        let mut panel = [B::ZERO; 2];
        let block_bytes = format.block_bytes();
        let blocks_of_32 = 2 * B::WIDTH / BLOCK;
        assert_eq!(B::WIDTH, format.block_len());
        // Any bytes: some scales are denormal, infinite or NaN.
        let rows: Vec<Vec<u8>> = (0..PANEL_ROWS)
            .map(|lane| {
                let mut state = lane as u32 * 77 + 1;
                let mut next = || {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                };
                (0..2 * block_bytes).map(|_| next()).collect()
            })
            .collect();
        for (lane, row) in rows.iter().enumerate() {
            for (block, stored) in panel.iter_mut().zip(row.chunks_exact(block_bytes)) {
                block.pack(lane, stored);
            }
        }
        for (lane, row) in rows.iter().enumerate() {
            let mut expected = vec![0.0; 2 * B::WIDTH];
            model_format::dequantize(format, row, &mut expected);
            let mut got = vec![0.0; blocks_of_32 * BLOCK];
            dequantise_row(&panel, lane, &mut got);
            for (element, (got, expected)) in got.iter().zip(&expected).enumerate() {
                let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                assert!(same, "{format}, lane {lane}, element {element}: {got}, not {expected}");
            }
        }
    }

    #[test]
    fn panels_hold_exactly_what_was_stored() {
        check::<PanelQ4_0>(TensorFormat::Q4_0);
        check::<PanelQ4_1>(TensorFormat::Q4_1);
        check::<PanelQ5_0>(TensorFormat::Q5_0);
        check::<PanelQ5_1>(TensorFormat::Q5_1);
        check::<PanelQ8_0>(TensorFormat::Q8_0);
        check::<PanelQ4K>(TensorFormat::Q4K);
        check::<PanelQ5K>(TensorFormat::Q5K);
        check::<PanelQ6K>(TensorFormat::Q6K);
    }
}
