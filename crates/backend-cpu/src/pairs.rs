//! bfloat16 in pairs, of weights, keys or values, and activations rounded to meet them. Knows single elements, not models or
//! threads.
//!
//! Two elements that follow one another in a sum are one 32-bit word, the first in its upper half, so that `vdpbf16ps` adds
//! their products in ascending order. That instruction adds the product of the upper halves and then that of the lower ones,
//! each sum rounded once; and it takes for zero whatever is below the normal numbers, which other multiply-adds do not. So
//! nothing may be there: elements below [`SMALLEST`] are zeros. An element of eight significant bits from 2^-56 on is a
//! multiple of 2^-63, a product of two such, and with it every sum of products however rounded, a multiple of 2^-126: zero, or
//! a normal number.

/// Stored words of two bfloat16 elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pairs;

/// Elements of smaller size are zeros: 2^-56, or 1.4e-17.
pub(crate) const SMALLEST: f32 = f32::from_bits((127 - 56) << 23);

/// How activations lie in memory: as the instructions take them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Words {
    /// An f32 for each element.
    Singles,
    /// A word for each pair of elements.
    Pairs,
}

impl Words {
    /// Words of a row, whose last element is padded to a pair.
    pub(crate) fn per_row(self, cols: usize) -> usize {
        match self {
            Self::Singles => cols.div_ceil(2) * 2,
            Self::Pairs => cols.div_ceil(2),
        }
    }
}

/// The nearest bfloat16, ties to even, as the bits of an f32; zero below [`SMALLEST`].
#[inline(always)]
pub(crate) fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000;
    let finite = if nearest & 0x7FFF_FFFF < SMALLEST.to_bits() { 0 } else { nearest };
    if x.is_nan() { f32::NAN.to_bits() } else { finite }
}

/// Two elements in a word.
#[inline(always)]
pub(crate) fn pair(first: f32, second: f32) -> u32 {
    rounded(first) | rounded(second) >> 16
}

/// The elements of a word.
#[inline(always)]
pub(crate) fn halves(pair: u32) -> [f32; 2] {
    [f32::from_bits(pair & 0xFFFF_0000), f32::from_bits(pair << 16)]
}

/// Rounds a row of activations to singles.
#[inline(always)]
pub(crate) fn round_to_singles(row: &[f32], out: &mut [u32]) {
    let (of_row, padding) = out.split_at_mut(row.len());
    for (out, &x) in of_row.iter_mut().zip(row) {
        *out = rounded(x);
    }
    padding.fill(0);
}

/// Rounds a row of activations to pairs.
#[inline(always)]
pub(crate) fn round_to_pairs(row: &[f32], out: &mut [u32]) {
    let (pairs, rest) = row.as_chunks::<2>();
    for (out, [first, second]) in out.iter_mut().zip(pairs) {
        *out = pair(*first, *second);
    }
    if let [last] = rest {
        out[pairs.len()] = pair(*last, 0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn rounding_is_that_of_the_format_down_to_the_smallest() {
        let mut state = 1_u32;
        for _ in 0..1_000_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let x = f32::from_bits(state);
            let nearest = bf16::from_f32(x).to_f32();
            let expected = if nearest.abs() < SMALLEST { 0.0 } else { nearest };
            let got = f32::from_bits(rounded(x));
            assert!(got == expected || got.is_nan() && x.is_nan(), "{x:e}: {got:e}, not {expected:e}");
        }
        assert_eq!(SMALLEST, 2.0_f32.powi(-56));
        assert_eq!(halves(pair(-1.5, SMALLEST)), [-1.5, SMALLEST]);
        assert_eq!(f32::from_bits(rounded(f32::NEG_INFINITY)), f32::NEG_INFINITY);
        assert!(f32::from_bits(rounded(f32::from_bits(0x7F80_0001))).is_nan());
    }
}
