//! Activations as blocks of 32 signed bytes with one scale. Knows one row at a time.

/// Elements of a block.
pub(crate) const BLOCK: usize = 32;

/// 32 activations: `x[i] = scale * quants[i / 4][i % 4]`, with quants in -127..=127.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
#[repr(C)]
pub(crate) struct ActivationBlock {
    /// In fours, as the dot-product instructions take them.
    pub(crate) quants: [[i8; 4]; BLOCK / 4],
    pub(crate) scale: f32,
    /// `scale` times the sum of all quants: what a weight block's minimum multiplies.
    pub(crate) scaled_sum: f32,
    /// Less the sum of all quants, and of the first 16: what a weight's integer offset multiplies.
    pub(crate) less_sum: i32,
    pub(crate) less_first_sum: i32,
}

impl ActivationBlock {
    /// Sets what is not a quant, from the scale and the sums of the first and the last 16 quants.
    pub(crate) fn set_scale(&mut self, scale: f32, first_half_sum: i32, last_half_sum: i32) {
        self.scale = scale;
        let sum = first_half_sum + last_half_sum;
        self.scaled_sum = scale * sum as f32;
        self.less_sum = -sum;
        self.less_first_sum = -first_half_sum;
    }
}

/// Adding 1.5 * 2^23 to a float below 2^22 leaves the nearest integer, ties to even, in the low bits of the sum.
pub(crate) const ROUND: f32 = 12_582_912.0;

/// The largest magnitude; NaN if any is.
#[inline(always)]
pub(crate) fn largest_magnitude(values: &[f32]) -> f32 {
    // Magnitudes compare like their bits, with NaN above infinity.
    f32::from_bits(values.iter().fold(0, |max, value| max.max(value.to_bits() & 0x7FFF_FFFF)))
}

/// The scale of values that are not quantised by their largest magnitude: NaN, or zero.
pub(crate) fn scale_of_none(max: f32) -> f32 {
    if max.is_finite() { 0.0 } else { f32::NAN }
}

/// The integer nearest to a float below 2^22, ties to even.
#[inline(always)]
pub(crate) fn nearest(value: f32) -> i32 {
    (value + ROUND).to_bits().wrapping_sub(ROUND.to_bits()).cast_signed()
}

/// Whether a block of this largest magnitude is quantised by its scale: it is finite, and `127 / max` does not overflow.
pub(crate) fn is_plain_magnitude(max: f32) -> bool {
    max.is_finite() && max > 1e-36
}

/// Quantises a block: the largest magnitude becomes 127, the others the nearest integer, ties to even.
///
/// A block with a NaN or an infinity gets the scale NaN, so that every product with it is NaN. A block whose largest
/// magnitude is at most 1e-36 is taken as zeros. Above 1e37 the sum of a block may overflow, and products with weights that
/// have a minimum are then infinite or NaN.
pub(crate) fn quantise_block(values: &[f32; BLOCK], out: &mut ActivationBlock) {
    let max = largest_magnitude(values);
    if !is_plain_magnitude(max) {
        *out = ActivationBlock { scale: scale_of_none(max), ..ActivationBlock::default() };
        out.scaled_sum = out.scale;
        return;
    }
    let inverse = 127.0 / max;
    let mut half_sums = [0; 2];
    for (index, value) in values.iter().enumerate() {
        let quant = nearest(value * inverse);
        out.quants[index / 4][index % 4] = quant as i8;
        half_sums[index * 2 / BLOCK] += quant;
    }
    out.set_scale(max / 127.0, half_sums[0], half_sums[1]);
}
