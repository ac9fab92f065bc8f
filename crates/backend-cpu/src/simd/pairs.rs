//! The product of bfloat16 activations with a panel of bfloat16 weights in pairs of columns. Knows registers, not what the
//! panel is part of.
//!
//! The sums are those of [`plain_dot`], bit for bit: see [`pairs`](crate::pairs) for why.

use super::{MatrixMut, Path};
#[cfg(target_arch = "x86_64")]
use crate::Instructions;
use crate::pairs::plain_dot;

/// `out[r][c] = sum over k, ascending, of x[r][k] * panel[k][c]`, as many rows and columns as `out` has.
///
/// `x` has the words of [`Path::words`] for each row; `panel` a word for each pair of columns `k` and each column of `out`.
pub(crate) fn pair_product(path: Path, panel: &[u32], x: &[u32], mut out: MatrixMut<'_>) {
    let (rows, width) = (out.rows(), out.cols());
    let cols = panel.len() / width * 2;
    assert_eq!(x.len(), rows * path.words().per_row(cols));
    match path.instructions() {
        // SAFETY: the path proves that the machine has these instructions, and the row's words were just counted.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { vector::product_avx2(panel, x, &mut out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 => unsafe { vector::product_avx512(panel, x, &mut out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512Bf16 => unsafe { vector::product_avx512_bf16(panel, x, &mut out) },
        _ => {
            for (row, x) in x.chunks_exact(cols).enumerate() {
                for (lane, out) in out.row_mut(row).iter_mut().enumerate() {
                    *out = plain_dot(panel, width, lane, x);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use core::arch::x86_64::{__m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi32};
    use core::marker::PhantomData;
    use core::mem::transmute;

    use crate::simd::MatrixMut;
    use crate::simd::isa::{Avx2, Avx512, Isa};

    /// How pairs of columns are multiplied and added.
    ///
    /// # Safety
    /// Every function needs the instructions of the implementing type.
    trait MultiplyAdd {
        type Isa: Isa;
        /// What one multiply-add takes of a vector of pairs.
        type Part: Copy;
        /// Multiply-adds, and words of activations, for a pair.
        const PARTS: usize;

        unsafe fn part(pairs: <Self::Isa as Isa>::Int, part: usize) -> Self::Part;

        /// `sum + weights * x`
        unsafe fn add(sum: <Self::Isa as Isa>::Float, weights: Self::Part, x: u32) -> <Self::Isa as Isa>::Float;
    }

    /// Column by column, in single precision.
    struct Single<I>(PhantomData<I>);

    impl<I: Isa> MultiplyAdd for Single<I> {
        type Isa = I;
        type Part = I::Float;
        const PARTS: usize = 2;

        #[inline(always)]
        unsafe fn part(pairs: I::Int, part: usize) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe {
                I::from_bits(if part == 0 {
                    I::and(pairs, I::splat_int(0xFFFF_0000_u32.cast_signed()))
                } else {
                    I::shift(pairs, 16)
                })
            }
        }

        #[inline(always)]
        unsafe fn add(sum: I::Float, weights: I::Float, x: u32) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { I::mul_add(I::splat(f32::from_bits(x)), weights, sum) }
        }
    }

    /// Pair by pair, with AVX-512 BF16.
    struct Pair;

    impl MultiplyAdd for Pair {
        type Isa = Avx512;
        type Part = __m512i;
        const PARTS: usize = 1;

        #[inline(always)]
        unsafe fn part(pairs: __m512i, _part: usize) -> __m512i {
            pairs
        }

        #[inline(always)]
        unsafe fn add(sum: __m512, weights: __m512i, x: u32) -> __m512 {
            // SAFETY: the caller has AVX-512 BF16; the vectors are reinterpreted as others of the same size.
            unsafe {
                let x = _mm512_set1_epi32(x.cast_signed());
                _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(weights), transmute::<__m512i, __m512bh>(x))
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn product_avx2(panel: &[u32], x: &[u32], out: &mut MatrixMut<'_>) {
        // SAFETY: this function has the features; the caller has counted the words.
        unsafe { product::<Single<Avx2>>(panel, x, out) }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) fn product_avx512(panel: &[u32], x: &[u32], out: &mut MatrixMut<'_>) {
        // SAFETY: as above.
        unsafe { product::<Single<Avx512>>(panel, x, out) }
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
    pub(super) fn product_avx512_bf16(panel: &[u32], x: &[u32], out: &mut MatrixMut<'_>) {
        // SAFETY: as above.
        unsafe { product::<Pair>(panel, x, out) }
    }

    /// All rows: tiles as high as the registers allow, then lower ones.
    ///
    /// # Safety
    /// The machine has the instructions of `M`; `x` has `M::PARTS` words for each row and pair.
    #[inline(always)]
    unsafe fn product<M: MultiplyAdd>(panel: &[u32], x: &[u32], out: &mut MatrixMut<'_>) {
        let rows = out.rows();
        let mut row = 0;
        // SAFETY: passed on to the caller.
        unsafe {
            while M::Isa::TILE_ROWS >= 12 && row + 12 <= rows {
                columns::<M, 12, 2>(panel, x, row, out);
                row += 12;
            }
            while row + 6 <= rows {
                columns::<M, 6, 2>(panel, x, row, out);
                row += 6;
            }
            while row + 3 <= rows {
                columns::<M, 3, 4>(panel, x, row, out);
                row += 3;
            }
            while row < rows {
                columns::<M, 1, 4>(panel, x, row, out);
                row += 1;
            }
        }
    }

    /// `ROWS` rows from `row` on, all columns, `VECTORS` or two vectors at a time.
    ///
    /// # Safety
    /// As for [`product`], and `out` has the rows.
    #[inline(always)]
    unsafe fn columns<M: MultiplyAdd, const ROWS: usize, const VECTORS: usize>(
        panel: &[u32],
        x: &[u32],
        row: usize,
        out: &mut MatrixMut<'_>,
    ) {
        let lanes = M::Isa::LANES;
        assert!(out.cols().is_multiple_of(2 * lanes), "a panel has whole pairs of vectors");
        let mut col = 0;
        // SAFETY: the columns are inside of the tile; the rest is passed on to the caller.
        unsafe {
            while VECTORS > 2 && col + VECTORS * lanes <= out.cols() {
                tile::<M, ROWS, VECTORS>(panel, x, (row, col), out);
                col += VECTORS * lanes;
            }
            while col < out.cols() {
                tile::<M, ROWS, 2>(panel, x, (row, col), out);
                col += 2 * lanes;
            }
        }
    }

    /// `ROWS` rows by `VECTORS` vectors, whose sums stay in registers.
    ///
    /// # Safety
    /// As for [`product`], and `out` has rows `row .. row + ROWS` and columns `col .. col + VECTORS * LANES`.
    #[inline(always)]
    unsafe fn tile<M: MultiplyAdd, const ROWS: usize, const VECTORS: usize>(
        panel: &[u32],
        x: &[u32],
        (row, col): (usize, usize),
        out: &mut MatrixMut<'_>,
    ) {
        debug_assert!(row + ROWS <= out.rows());
        debug_assert!(col + VECTORS * M::Isa::LANES <= out.cols());
        let (width, out_stride) = (out.cols(), out.stride());
        let num_pairs = panel.len() / width;
        let x_stride = num_pairs * M::PARTS;
        let x = x[row * x_stride..][..ROWS * x_stride].as_ptr();
        let out = out.as_mut_ptr().wrapping_add(row * out_stride + col);
        // SAFETY: the caller has the instructions; the panel has `num_pairs` rows of all columns, the slice of `x` was just
        // taken, and the view proves that `out` has the rows.
        unsafe {
            let mut sums = [[M::Isa::splat(0.0); VECTORS]; ROWS];
            for pair in 0..num_pairs {
                let panel = panel.as_ptr().wrapping_add(pair * width + col);
                let mut pairs = [M::Isa::splat_int(0); VECTORS];
                for (v, pairs) in pairs.iter_mut().enumerate() {
                    *pairs = M::Isa::load_bytes(panel.wrapping_add(v * M::Isa::LANES).cast());
                }
                for part in 0..M::PARTS {
                    let mut weights = [M::part(pairs[0], part); VECTORS];
                    for (weights, pairs) in weights.iter_mut().zip(pairs) {
                        *weights = M::part(pairs, part);
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = x.wrapping_add(r * x_stride + pair * M::PARTS + part).read();
                        for (sum, &weights) in sums.iter_mut().zip(&weights) {
                            *sum = M::add(*sum, weights, x);
                        }
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    M::Isa::store(out.wrapping_add(r * out_stride + v * M::Isa::LANES), sum);
                }
            }
        }
    }
}
