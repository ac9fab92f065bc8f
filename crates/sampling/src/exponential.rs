//! The exponential of numbers that are not positive, in a form over which loops vectorise. Knows nothing of its use.

/// `e^x` for `x <= 0`, within 2 units in the last place; `0` below -87, and `0` for minus infinity.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `ln 2` is split in two (Cody and Waite, 1980), `e^r` is the polynomial of
/// Cephes' `expf`, and `2^n` is built in the exponent field. No branch, no call.
#[inline]
pub(crate) fn exp_nonpositive(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let shifted = clamped * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let fraction = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < LOWEST { 0.0 } else { fraction * power }
}

/// The sum of `e^(logit - max)`, where `max` is the largest of the finite `logits`.
pub(crate) fn sum_of_exponentials(logits: &[f32], max: f32) -> f64 {
    const LANES: usize = 16;
    // Short runs in single precision and lanes, so that they vectorise and lose little; their sums in double.
    logits
        .chunks(64 * LANES)
        .map(|run| {
            let mut lanes = [0.0_f32; LANES];
            let (whole, rest) = run.as_chunks::<LANES>();
            for chunk in whole {
                for (lane, &logit) in lanes.iter_mut().zip(chunk) {
                    *lane += exp_nonpositive(logit - max);
                }
            }
            for (lane, &logit) in lanes.iter_mut().zip(rest) {
                *lane += exp_nonpositive(logit - max);
            }
            lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::{exp_nonpositive, sum_of_exponentials};

    #[test]
    fn agrees_with_double_precision() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp_nonpositive(x)) - expected).abs() / expected;
            assert!(error < 2.4e-7, "e^{x}: {error}");
        }
        for (x, expected) in [(0.0, 1.0), (-0.0, 1.0), (-87.5, 0.0), (-1e30, 0.0), (f32::NEG_INFINITY, 0.0)] {
            assert_eq!(exp_nonpositive(x), expected, "e^{x}");
        }
    }

    #[test]
    fn sums_any_length() {
        for len in [1, 15, 16, 17, 1024, 5001] {
            let logits: Vec<f32> = (0..len).map(|i| -((i * 7919 % 1000) as f32) / 50.0).collect();
            let expected: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
            let sum = sum_of_exponentials(&logits, 0.0);
            assert!((sum - expected).abs() < 1e-6 * expected, "{len}: {sum} for {expected}");
        }
    }
}
