//! Loops over single rows: norm, rotation, gate, rounding, scaling. They are written once, as plain code over lanes of a fixed
//! number, and compiled for each [`Path`]: the compiler vectorises them, and as no reduction depends on the width of a
//! vector, the bits are the same.

use super::Path;
#[cfg(target_arch = "x86_64")]
use crate::Instructions;
use crate::pairs::{self, Words};

/// Partial sums of a reduction.
const LANES: usize = 16;

/// Compiles a function of plain code for every path.
macro_rules! for_every_path {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? = $body:path) => {
        $(#[$doc])*
        pub(crate) fn $name(path: Path, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2($($arg: $type),*) $(-> $result)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) $(-> $result)? {
                $body($($arg),*)
            }
            match path.instructions() {
                // SAFETY: the path proves that the machine has these instructions.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Instructions::Avx512 | Instructions::Avx512Bf16 => unsafe { avx512($($arg),*) },
                _ => $body($($arg),*),
            }
        }
    };
}

/// Rounds a row of activations to the words that products of bfloat16 take.
pub(crate) fn round_row(path: Path, row: &[f32], out: &mut [u32]) {
    match path.words() {
        Words::Singles => round_to_singles(path, row, out),
        Words::Pairs => round_to_pairs(path, row, out),
    }
}

for_every_path! {
    /// Rounds a row of activations to bfloat16, an f32 each.
    round_to_singles(row: &[f32], out: &mut [u32]) = pairs::round_to_singles
}

for_every_path! {
    /// Rounds a row of activations to pairs of bfloat16.
    round_to_pairs(row: &[f32], out: &mut [u32]) = pairs::round_to_pairs
}

for_every_path! {
    /// `out = x / sqrt(mean(x²) + eps) * weight`.
    rms_norm_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm
}

for_every_path! {
    /// `x = x / sqrt(mean(x²) + eps) * weight`.
    rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) = rms_norm_of_itself
}

for_every_path! {
    /// In each head, rotates the pairs `(x[i], x[i + half])` by the angles whose cosines, then sines, are `rotation`.
    rotate_heads(heads: &mut [f32], rotation: &[f32]) = rotated
}

for_every_path! {
    /// `out = silu(gate) * up`.
    silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]) = gate_up
}

for_every_path! {
    /// `out = out + x`.
    add_row(out: &mut [f32], x: &[f32]) = sum
}

for_every_path! {
    /// `out = out * factor + x`, each rounded.
    scale_and_add(out: &mut [f32], factor: f32, x: &[f32]) = scaled_sum
}

for_every_path! {
    /// `x = x * factor`.
    scale_row(x: &mut [f32], factor: f32) = scaled
}

/// The sum of lanes, in halves.
#[inline(always)]
fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = x.mul_add(x, *lane);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane = x.mul_add(x, *lane);
    }
    let mean = sum_lanes(lanes) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

#[inline(always)]
fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let inverse = inverse_rms(x, eps);
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = x * inverse * weight;
    }
}

#[inline(always)]
fn rms_norm_of_itself(x: &mut [f32], weight: &[f32], eps: f32) {
    let inverse = inverse_rms(x, eps);
    for (x, &weight) in x.iter_mut().zip(weight) {
        *x = *x * inverse * weight;
    }
}

#[inline(always)]
fn rotated(heads: &mut [f32], rotation: &[f32]) {
    let half = rotation.len() / 2;
    let (cosines, sines) = rotation.split_at(half);
    for head in heads.chunks_exact_mut(rotation.len()) {
        let (first, second) = head.split_at_mut(half);
        for (((a, b), c), s) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
            (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
        }
    }
}

#[inline(always)]
fn gate_up(gate: &[f32], up: &[f32], out: &mut [f32]) {
    for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
        *out = gate / (1.0 + exp(-gate)) * up;
    }
}

#[inline(always)]
fn sum(out: &mut [f32], x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out += x;
    }
}

#[inline(always)]
fn scaled_sum(out: &mut [f32], factor: f32, x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = *out * factor + x;
    }
}

#[inline(always)]
fn scaled(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// `e^x` within 2 units in the last place; 0 below -87, and at most `e^88`. NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `ln 2` is split in two (Cody and Waite, 1980), `e^r` is the polynomial of
/// Cephes' `expf`, and `2^n` is built in the exponent field. No branch, no call.
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    const HIGHEST: f32 = 88.0;
    // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < LOWEST { LOWEST } else { x };
    let clamped = if clamped > HIGHEST { HIGHEST } else { clamped };
    let shifted = clamped.mul_add(core::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, clamped));
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, c);
    }
    let fraction = p.mul_add(r * r, r + 1.0);
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    if x < LOWEST { 0.0 } else { fraction * power }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_agrees_with_double_precision() {
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            let expected = f64::from(x).exp();
            let error = (f64::from(exp(x)) - expected).abs() / expected;
            assert!(error < 2.4e-7, "e^{x}: {error}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }
}
