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

/// Quantises a block: the largest magnitude becomes 127, the others the nearest integer, ties to even.
///
/// A block with a NaN or an infinity gets the scale NaN, so that every product with it is NaN. A block whose largest
/// magnitude is at most 1e-36 is taken as zeros: `127 / max` would overflow. Above 1e37 the sum of a block may, and products with weights
/// that have a minimum are then infinite or NaN.
#[inline(always)]
pub(crate) fn quantise_block(values: &[f32; BLOCK], out: &mut ActivationBlock) {
    // Magnitudes compare like their bits, with NaN above infinity.
    let max_bits = values.iter().fold(0, |max, value| max.max(value.to_bits() & 0x7FFF_FFFF));
    let max = f32::from_bits(max_bits);
    let finite = max_bits < 0x7F80_0000;
    let is_zero = max <= 1e-36;
    let inverse = 127.0 / max;
    let mut half_sums = [0; 2];
    let (fours, _) = out.quants.as_chunks_mut::<{ BLOCK / 8 }>();
    for ((values, fours), sum) in values.as_chunks::<{ BLOCK / 2 }>().0.iter().zip(fours).zip(&mut half_sums) {
        // Summed while they are wide: bytes would have to be widened again.
        let mut quants = [0_i32; BLOCK / 2];
        for (quant, value) in quants.iter_mut().zip(values) {
            // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
            const ROUND: f32 = 12_582_912.0;
            let rounded = (value * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i32;
            *quant = if finite && !is_zero { rounded } else { 0 };
        }
        *sum = quants.iter().sum();
        for (four, quants) in fours.iter_mut().zip(quants.as_chunks::<4>().0) {
            *four = quants.map(|quant| quant as i8);
        }
    }
    out.scale = match (finite, is_zero) {
        (false, _) => f32::NAN,
        (true, true) => 0.0,
        (true, false) => max / 127.0,
    };
    let sum = half_sums[0] + half_sums[1];
    out.scaled_sum = out.scale * sum as f32;
    out.less_sum = -sum;
    out.less_first_sum = -half_sums[0];
}

/// Quantises a row, whose length is a multiple of 32.
#[inline(always)]
pub(crate) fn quantise_row(row: &[f32], out: &mut [ActivationBlock]) {
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    assert!(rest.is_empty());
    assert_eq!(blocks.len(), out.len());
    for (block, out) in blocks.iter().zip(out) {
        quantise_block(block, out);
    }
}
