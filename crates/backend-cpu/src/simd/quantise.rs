//! Quantising rows of activations, in vectors. Knows what [`quantise_block`] computes, and computes the same bits.

use super::Path;
#[cfg(target_arch = "x86_64")]
use crate::Instructions;
use crate::quantise::{ActivationBlock, BLOCK, quantise_block};

/// Quantises a row, whose length is a multiple of 32.
pub(crate) fn quantise_row(path: Path, row: &[f32], out: &mut [ActivationBlock]) {
    let (blocks, rest) = row.as_chunks::<BLOCK>();
    assert!(rest.is_empty());
    assert_eq!(blocks.len(), out.len());
    match path.instructions() {
        // SAFETY: the path proves that the machine has these instructions.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { vector::blocks_avx2(blocks, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 | Instructions::Avx512Bf16 => unsafe { vector::blocks_avx512(blocks, out) },
        _ => blocks.iter().zip(out).for_each(|(block, out)| quantise_block(block, out)),
    }
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use core::arch::x86_64::*;

    use super::{ActivationBlock, BLOCK, quantise_block};
    use crate::quantise::{ROUND, is_plain_magnitude};

    const MAGNITUDE: i32 = 0x7FFF_FFFF;

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn blocks_avx2(blocks: &[[f32; BLOCK]], out: &mut [ActivationBlock]) {
        let (magnitude, round) = (_mm256_set1_epi32(MAGNITUDE), _mm256_set1_ps(ROUND));
        for (block, out) in blocks.iter().zip(out) {
            let (values, _) = block.as_chunks::<8>();
            // SAFETY: each is eight floats.
            let x = [0, 1, 2, 3].map(|i| unsafe { _mm256_loadu_ps(values[i].as_ptr()) });
            let bits = x.map(|x| _mm256_and_si256(_mm256_castps_si256(x), magnitude));
            let max = _mm256_max_epi32(_mm256_max_epi32(bits[0], bits[1]), _mm256_max_epi32(bits[2], bits[3]));
            let max = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
            let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b01_00_11_10>(max));
            let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b10_11_00_01>(max));
            let max = f32::from_bits(_mm_cvtsi128_si32(max).cast_unsigned());
            if !is_plain_magnitude(max) {
                quantise_block(block, out);
                continue;
            }
            let inverse = _mm256_set1_ps(127.0 / max);
            let quants = x.map(|x| {
                let rounded = _mm256_add_ps(_mm256_mul_ps(x, inverse), round);
                _mm256_sub_epi32(_mm256_castps_si256(rounded), _mm256_castps_si256(round))
            });
            // Packing works on halves of registers: fours of quants end up in the order 0 2 4 6 1 3 5 7.
            let low = _mm256_packs_epi32(quants[0], quants[1]);
            let high = _mm256_packs_epi32(quants[2], quants[3]);
            let bytes = _mm256_packs_epi16(low, high);
            let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
            finish(out, max, [_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes)]);
        }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) fn blocks_avx512(blocks: &[[f32; BLOCK]], out: &mut [ActivationBlock]) {
        let (magnitude, round) = (_mm512_set1_epi32(MAGNITUDE), _mm512_set1_ps(ROUND));
        for (block, out) in blocks.iter().zip(out) {
            let (values, _) = block.as_chunks::<16>();
            // SAFETY: each is sixteen floats.
            let x = [0, 1].map(|i| unsafe { _mm512_loadu_ps(values[i].as_ptr()) });
            let bits = x.map(|x| _mm512_and_si512(_mm512_castps_si512(x), magnitude));
            let max = _mm512_reduce_max_epi32(_mm512_max_epi32(bits[0], bits[1]));
            let max = f32::from_bits(max.cast_unsigned());
            if !is_plain_magnitude(max) {
                quantise_block(block, out);
                continue;
            }
            let inverse = _mm512_set1_ps(127.0 / max);
            let bytes = x.map(|x| {
                let rounded = _mm512_add_ps(_mm512_mul_ps(x, inverse), round);
                _mm512_cvtepi32_epi8(_mm512_sub_epi32(_mm512_castps_si512(rounded), _mm512_castps_si512(round)))
            });
            finish(out, max, bytes);
        }
    }

    /// A block of these quants, whose largest magnitude stands for `max`.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn finish(out: &mut ActivationBlock, max: f32, bytes: [__m128i; 2]) {
        let [first, last] = [sum_of(bytes[0]), sum_of(bytes[1])];
        let (halves, _) = out.quants.as_chunks_mut::<{ BLOCK / 8 }>();
        for (half, bytes) in halves.iter_mut().zip(bytes) {
            // SAFETY: a half is sixteen bytes.
            unsafe { _mm_storeu_si128(half.as_mut_ptr().cast(), bytes) };
        }
        out.set_scale(max / 127.0, first, last);
    }

    /// The sum of sixteen signed bytes: that of unsigned ones, each greater by 128.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn sum_of(bytes: __m128i) -> i32 {
        let sums = _mm_sad_epu8(_mm_xor_si128(bytes, _mm_set1_epi8(-128)), _mm_setzero_si128());
        _mm_cvtsi128_si32(_mm_add_epi32(sums, _mm_unpackhi_epi64(sums, sums))) - 16 * 128
    }
}
