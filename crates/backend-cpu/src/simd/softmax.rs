//! A running softmax (Milakov and Gimelshein, 2018), chunk by chunk. Knows scores, not what they weigh.
//!
//! Weights are powers of two: `e^(scale * s - max) = 2^(c * s - m)` with `c = scale * log2(e)`, so that neither the scale
//! nor the base costs an operation of its own. Sums are formed in 16 lanes, whatever the width of a vector.

use super::Path;
#[cfg(target_arch = "x86_64")]
use crate::Instructions;

/// Partial sums, and partial maxima.
const LANES: usize = 16;

/// Running maximum and sum of a softmax.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Softmax {
    /// The largest score, times the scale and `log2(e)`.
    max: f32,
    pub(crate) sum: f32,
}

impl Softmax {
    pub(crate) const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0 };

    /// Takes a chunk of scores in: they become weights relative to the new maximum. `scale` is positive. Returns the factor
    /// by which what was summed before must shrink.
    pub(crate) fn take(&mut self, path: Path, scores: &mut [f32], scale: f32) -> f32 {
        let factor = scale * core::f32::consts::LOG2_E;
        match path.instructions() {
            // SAFETY: the path proves that the machine has these instructions.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { vector::softmax_avx2(self, scores, factor) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 | Instructions::Avx512Bf16 => unsafe { vector::softmax_avx512(self, scores, factor) },
            _ => plain(self, scores, factor),
        }
    }

    /// Takes the largest new score in, unscaled: the new maximum, and the factor for what was before.
    #[inline(always)]
    fn raise(&mut self, largest: f32, factor: f32) -> (f32, f32) {
        let max = larger(largest * factor, self.max);
        let shrink = exp2(self.max - max);
        self.max = max;
        (max, shrink)
    }
}

fn plain(state: &mut Softmax, scores: &mut [f32], factor: f32) -> f32 {
    let mut maxima = [f32::NEG_INFINITY; LANES];
    for chunk in scores.chunks(LANES) {
        for (max, score) in maxima.iter_mut().zip(chunk) {
            *max = larger(*score, *max);
        }
    }
    let (max, shrink) = state.raise(fold(maxima, larger), factor);
    let mut sums = [0.0; LANES];
    for chunk in scores.chunks_mut(LANES) {
        for (sum, score) in sums.iter_mut().zip(chunk) {
            *score = exp2(score.mul_add(factor, -max));
            *sum += *score;
        }
    }
    state.sum = state.sum.mul_add(shrink, fold(sums, |a, b| a + b));
    shrink
}

/// The larger one; the second if there is none.
#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Lanes brought together in halves.
#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = f(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Powers below this are zero: the next ones are not all normal numbers.
const LOWEST: f32 = -125.0;

/// Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// `(2^f - 1) / f` for `|f| <= 0.5` within 2e-9, as a polynomial in ascending order: fitted for the least relative error of
/// `2^f`.
const POWERS: [f32; 6] =
    [core::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_4, 0.000_153_533_62];

/// `2^x` within 1.5 units in the last place; 0 below -125. NaN stays NaN.
///
/// `x = n + f` with `|f| <= 0.5`; `n` is added to the exponent of the polynomial's value. No branch, no call.
#[inline(always)]
fn exp2(x: f32) -> f32 {
    let shifted = x + ROUND;
    let f = x - (shifted - ROUND);
    let [lower @ .., highest] = POWERS;
    let quotient = lower.iter().rev().fold(highest, |p, c| p.mul_add(f, *c));
    let fraction = quotient.mul_add(f, 1.0);
    let power = f32::from_bits(fraction.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x < LOWEST { 0.0 } else { power }
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use super::{LANES, LOWEST, POWERS, ROUND, Softmax};
    use crate::simd::isa::{Avx2, Avx512, Isa};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn softmax_avx2(state: &mut Softmax, scores: &mut [f32], factor: f32) -> f32 {
        // SAFETY: this function has the features.
        unsafe { softmax::<Avx2, 2>(state, scores, factor) }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn softmax_avx512(state: &mut Softmax, scores: &mut [f32], factor: f32) -> f32 {
        // SAFETY: this function has the features.
        unsafe { softmax::<Avx512, 1>(state, scores, factor) }
    }

    /// As [`plain`](super::plain) does, with the lanes in `VECTORS` vectors.
    ///
    /// # Safety
    /// The machine has the instructions of `I`.
    #[inline(always)]
    unsafe fn softmax<I: Isa, const VECTORS: usize>(state: &mut Softmax, scores: &mut [f32], factor: f32) -> f32 {
        const { assert!(VECTORS * I::LANES == LANES) };
        // Behind the last score are others that weigh nothing.
        let (whole, rest) = scores.as_chunks_mut::<LANES>();
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let last_lanes = if rest.is_empty() { &mut [][..] } else { core::slice::from_mut(&mut last) };
        // SAFETY: the caller has the instructions; lanes are as many as the vectors have together.
        unsafe {
            let mut maxima = [I::splat(f32::NEG_INFINITY); VECTORS];
            for lanes in whole.iter().chain(&*last_lanes) {
                for (v, max) in maxima.iter_mut().enumerate() {
                    *max = I::max(I::load(lanes.as_ptr().wrapping_add(v * I::LANES)), *max);
                }
            }
            let (max, shrink) = state.raise(I::fold_max(maxima), factor);
            let (factor, less) = (I::splat(factor), I::splat(-max));
            let mut sums = [I::splat(0.0); VECTORS];
            for lanes in whole.iter_mut().chain(last_lanes) {
                for (v, sum) in sums.iter_mut().enumerate() {
                    let lanes = lanes.as_mut_ptr().wrapping_add(v * I::LANES);
                    let weights = exp2::<I>(I::mul_add(I::load(lanes), factor, less));
                    I::store(lanes, weights);
                    *sum = I::add(*sum, weights);
                }
            }
            rest.copy_from_slice(&last[..rest.len()]);
            state.sum = state.sum.mul_add(shrink, I::fold_sum(sums));
            shrink
        }
    }

    /// [`exp2`](super::exp2) of each lane.
    ///
    /// # Safety
    /// The machine has the instructions of `I`.
    #[inline(always)]
    unsafe fn exp2<I: Isa>(x: I::Float) -> I::Float {
        // SAFETY: passed on to the caller.
        unsafe {
            let round = I::splat(ROUND);
            let shifted = I::add(x, round);
            let f = I::sub(x, I::sub(shifted, round));
            let [lower @ .., highest] = POWERS;
            let mut quotient = I::splat(highest);
            for c in lower.into_iter().rev() {
                quotient = I::mul_add(quotient, f, I::splat(c));
            }
            let fraction = I::mul_add(quotient, f, I::splat(1.0));
            let power = I::add_int(I::to_bits(fraction), I::shift(I::to_bits(shifted), 23));
            I::zero_where_below(I::from_bits(power), x, LOWEST)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::exp2;

    #[test]
    fn exp2_agrees_with_double_precision() {
        for i in -125_000..=1_000 {
            let x = i as f32 / 1000.0;
            let expected = f64::from(x).exp2();
            let error = (f64::from(exp2(x)) - expected).abs() / expected;
            assert!(error < 9e-8, "2^{x}: {error}");
        }
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(-1e30), 0.0);
        assert_eq!(exp2(0.0), 1.0);
        assert!(exp2(f32::NAN).is_nan());
    }
}
