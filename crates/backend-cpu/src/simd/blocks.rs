//! The product of a panel of quantised weights with quantised activations, in vectors. Knows packings, not their use.
//!
//! Lanes are rows of the panel. For each 32 columns the weights are unpacked once into eight vectors of bytes and multiplied
//! with each row of activations in turn. The sums are those of [`plain_dot`](crate::panel::plain_dot), bit for bit.

use super::MatrixMut;
use super::isa::{AHEAD_BYTES, Avx2, Avx512, Isa, prefetch};
use crate::panel::{
    Affine, Nested, NestedQuants, PANEL_ROWS, PanelBlock, Quants, Quants4, Quants5, Quants6, Quants8, Runs,
    StoredQuants, Symmetric,
};
use crate::quantise::{ActivationBlock, BLOCK};

/// Quants that can be unpacked into vectors.
///
/// # Safety
/// Its functions need the instructions of `I`, and `first_lane + I::LANES <= 16`.
pub(crate) trait VectorQuants: Quants {
    /// The eight vectors of lanes `first_lane ..`.
    unsafe fn unpack<I: Isa>(&self, first_lane: usize) -> [I::Int; 8];

    /// The integer sums of one block, offset taken off.
    unsafe fn dot<I: Isa>(weights: &[I::Int; 8], x: &ActivationBlock) -> I::Int;
}

/// What a sum begins with so that the offset of unsigned quants, a power of two if there is one, is taken off: less the sum
/// of the activations, times that. Multiplied in vectors, as the compiler would gather the sums of several rows otherwise.
///
/// # Safety
/// The machine has the instructions of `I`.
#[inline(always)]
unsafe fn start<I: Isa>(offset: i32, less_sum: I::Int) -> I::Int {
    debug_assert!(offset == 0 || offset.count_ones() == 1);
    // SAFETY: passed on to the caller.
    unsafe { if offset == 0 { I::splat_int(0) } else { I::shift(less_sum, offset.ilog2().cast_signed()) } }
}

impl<const OFFSET: i32> VectorQuants for Quants4<OFFSET> {
    #[inline(always)]
    unsafe fn unpack<I: Isa>(&self, first_lane: usize) -> [I::Int; 8] {
        debug_assert!(first_lane + I::LANES <= PANEL_ROWS);
        // SAFETY: the caller has the instructions; each vector of 64 bytes holds four for each of 16 lanes.
        unsafe {
            let mask = I::splat_int(0x0F0F_0F0F);
            let mut vectors = [mask; 8];
            for (v, bytes) in self.nibbles.iter().enumerate() {
                let both = I::load_bytes(bytes.as_ptr().wrapping_add(4 * first_lane));
                vectors[v] = I::and(both, mask);
                vectors[v + 4] = I::and(I::shift(both, -4), mask);
            }
            vectors
        }
    }

    #[inline(always)]
    unsafe fn dot<I: Isa>(weights: &[I::Int; 8], x: &ActivationBlock) -> I::Int {
        // SAFETY: passed on to the caller; a nibble is at most 15.
        unsafe { I::dot::<15, 8>(start::<I>(OFFSET, I::splat_int(x.less_sum)), weights, &x.quants) }
    }
}

impl<const OFFSET: i32> VectorQuants for Quants5<OFFSET> {
    #[inline(always)]
    unsafe fn unpack<I: Isa>(&self, first_lane: usize) -> [I::Int; 8] {
        // SAFETY: the caller has the instructions; the vector of 64 bytes holds four for each of 16 lanes.
        unsafe {
            let mut vectors = self.low.unpack::<I>(first_lane);
            let high = I::load_bytes(self.high.as_ptr().wrapping_add(4 * first_lane));
            let fifth = I::splat_int(0x1010_1010);
            for (v, vector) in vectors.iter_mut().enumerate() {
                // Bit `v` moves to bit 4; what crosses from other bytes is masked away.
                *vector = I::or(*vector, I::and(I::shift(high, 4 - v as i32), fifth));
            }
            vectors
        }
    }

    #[inline(always)]
    unsafe fn dot<I: Isa>(weights: &[I::Int; 8], x: &ActivationBlock) -> I::Int {
        // SAFETY: passed on to the caller; five bits are at most 31.
        unsafe { I::dot::<31, 8>(start::<I>(OFFSET, I::splat_int(x.less_sum)), weights, &x.quants) }
    }
}

impl VectorQuants for Quants8 {
    #[inline(always)]
    unsafe fn unpack<I: Isa>(&self, first_lane: usize) -> [I::Int; 8] {
        debug_assert!(first_lane + I::LANES <= PANEL_ROWS);
        // SAFETY: the caller has the instructions; each vector of 64 bytes holds four for each of 16 lanes.
        unsafe {
            let mut vectors = [I::splat_int(0); 8];
            for (vector, bytes) in vectors.iter_mut().zip(&self.bytes) {
                *vector = I::load_bytes(bytes.as_ptr().wrapping_add(4 * first_lane));
            }
            vectors
        }
    }

    #[inline(always)]
    unsafe fn dot<I: Isa>(weights: &[I::Int; 8], x: &ActivationBlock) -> I::Int {
        // SAFETY: passed on to the caller; quantised activations are never -128.
        unsafe { I::dot_signed(weights, &x.quants, x.less_sum) }
    }
}

/// A block that can be multiplied in vectors.
///
/// # Safety
/// Its function needs the instructions of `I`, `first_lane + I::LANES <= 16`, and rows that have the block's columns.
pub(crate) trait VectorBlock: PanelBlock {
    /// Adds to `sums[r]` the products of lanes `first_lane ..` with the block's columns of row `r`, which begin at
    /// `x[r][index]`.
    unsafe fn add_products<I: Isa, const ROWS: usize>(
        &self,
        first_lane: usize,
        x: &[&[ActivationBlock]; ROWS],
        index: usize,
        sums: &mut [I::Float; ROWS],
    );
}

impl<Q: VectorQuants + StoredQuants> VectorBlock for Symmetric<Q> {
    #[inline(always)]
    unsafe fn add_products<I: Isa, const ROWS: usize>(
        &self,
        first_lane: usize,
        x: &[&[ActivationBlock]; ROWS],
        index: usize,
        sums: &mut [I::Float; ROWS],
    ) {
        // SAFETY: the caller has the instructions; the scales are those of 16 lanes.
        unsafe {
            let weights = self.quants.unpack::<I>(first_lane);
            let scale = I::load_half(self.scales.as_ptr().wrapping_add(first_lane));
            for (x, sum) in x.iter().zip(sums) {
                let x = &x[index];
                let integer = I::to_float(Q::dot::<I>(&weights, x));
                *sum = I::mul_add(I::mul(scale, I::splat(x.scale)), integer, *sum);
            }
        }
    }
}

impl<Q: VectorQuants + StoredQuants> VectorBlock for Affine<Q> {
    #[inline(always)]
    unsafe fn add_products<I: Isa, const ROWS: usize>(
        &self,
        first_lane: usize,
        x: &[&[ActivationBlock]; ROWS],
        index: usize,
        sums: &mut [I::Float; ROWS],
    ) {
        // SAFETY: the caller has the instructions; scales and minima are those of 16 lanes.
        unsafe {
            let weights = self.quants.unpack::<I>(first_lane);
            let scale = I::load_half(self.scales.as_ptr().wrapping_add(first_lane));
            let min = I::load_half(self.mins.as_ptr().wrapping_add(first_lane));
            for (x, sum) in x.iter().zip(sums) {
                let x = &x[index];
                let integer = I::to_float(Q::dot::<I>(&weights, x));
                *sum = I::mul_add(I::mul(scale, I::splat(x.scale)), integer, *sum);
                *sum = I::mul_add(min, I::splat(x.scaled_sum), *sum);
            }
        }
    }
}

impl<Q: VectorQuants + NestedQuants> VectorBlock for Nested<Q> {
    #[inline(always)]
    unsafe fn add_products<I: Isa, const ROWS: usize>(
        &self,
        first_lane: usize,
        x: &[&[ActivationBlock]; ROWS],
        index: usize,
        sums: &mut [I::Float; ROWS],
    ) {
        // SAFETY: the caller has the instructions; all scales and minima are those of 16 lanes.
        unsafe {
            let block_scale = I::load_half(self.scales.as_ptr().wrapping_add(first_lane));
            let block_min = I::load_half(self.mins.as_ptr().wrapping_add(first_lane));
            for (offset, part) in self.parts.iter().enumerate() {
                let weights = part.quants.unpack::<I>(first_lane);
                let scale = I::mul(block_scale, I::load_u8(part.scales.as_ptr().wrapping_add(first_lane)));
                let min = I::mul(block_min, I::load_u8(part.mins.as_ptr().wrapping_add(first_lane)));
                for (x, sum) in x.iter().zip(&mut *sums) {
                    let x = &x[index + offset];
                    let integer = I::to_float(Q::dot::<I>(&weights, x));
                    *sum = I::mul_add(I::mul(scale, I::splat(x.scale)), integer, *sum);
                    *sum = I::mul_sub_from(min, I::splat(x.scaled_sum), *sum);
                }
            }
        }
    }
}

impl VectorBlock for Runs {
    #[inline(always)]
    unsafe fn add_products<I: Isa, const ROWS: usize>(
        &self,
        first_lane: usize,
        x: &[&[ActivationBlock]; ROWS],
        index: usize,
        sums: &mut [I::Float; ROWS],
    ) {
        // SAFETY: the caller has the instructions; all scales are those of 16 lanes.
        unsafe {
            let scale = I::load_half(self.scales.as_ptr().wrapping_add(first_lane));
            for (offset, part) in self.parts.iter().enumerate() {
                let weights = unpack_pairs::<I>(&part.quants, first_lane);
                let factors = [
                    I::load_i8(part.scales[0].as_ptr().wrapping_add(first_lane)),
                    I::load_i8(part.scales[1].as_ptr().wrapping_add(first_lane)),
                ];
                for (x, sum) in x.iter().zip(&mut *sums) {
                    let x = &x[index + offset];
                    let less_first = I::splat_int(x.less_first_sum);
                    let less_second = I::sub_int(I::splat_int(x.less_sum), less_first);
                    let first = I::dot::<63, 4>(start::<I>(32, less_first), &weights[0], &x.quants[..4]);
                    let second = I::dot::<63, 4>(start::<I>(32, less_second), &weights[1], &x.quants[4..]);
                    let integer = I::add_int(I::mul_int(first, factors[0]), I::mul_int(second, factors[1]));
                    *sum = I::mul_add(I::mul(scale, I::splat(x.scale)), I::to_float(integer), *sum);
                }
            }
        }
    }
}

/// The vectors of the first and of the last 16 columns of a block of 32.
///
/// # Safety
/// As for [`VectorQuants::unpack`].
#[inline(always)]
unsafe fn unpack_pairs<I: Isa>(quants: &Quants6, first_lane: usize) -> [[I::Int; 4]; 2] {
    // SAFETY: the caller has the instructions; each vector of 64 bytes holds four for each of 16 lanes.
    unsafe {
        let low = quants.low.unpack::<I>(first_lane);
        let upper = I::splat_int(0x3030_3030);
        let mut vectors = [[upper; 4]; 2];
        for half in 0..2 {
            let high = I::load_bytes(quants.high[half].as_ptr().wrapping_add(4 * first_lane));
            for v in 0..4 {
                // Bits `2 v` and `2 v + 1` move to bits 4 and 5; what crosses from other bytes is masked away.
                let high = I::and(I::shift(high, 4 - 2 * v as i32), upper);
                vectors[half][v] = I::or(low[half * 4 + v], high);
            }
        }
        vectors
    }
}

/// All rows of a product.
///
/// # Safety
/// The machine has the instructions of `I`.
#[inline(always)]
unsafe fn product<I: Isa, B: VectorBlock>(panel: &[B], x: &[ActivationBlock], out: &mut MatrixMut<'_>) {
    let mut row = 0;
    while row < out.rows() {
        // SAFETY: passed on to the caller.
        row += unsafe {
            match out.rows() - row {
                8.. => rows::<I, B, 8>(panel, x, row, out),
                4.. => rows::<I, B, 4>(panel, x, row, out),
                2.. => rows::<I, B, 2>(panel, x, row, out),
                _ => rows::<I, B, 1>(panel, x, row, out),
            }
        };
    }
}

/// `ROWS` rows of a product, from `row` on. Returns `ROWS`.
///
/// # Safety
/// The machine has the instructions of `I`.
#[inline(always)]
unsafe fn rows<I: Isa, B: VectorBlock, const ROWS: usize>(
    panel: &[B],
    x: &[ActivationBlock],
    row: usize,
    out: &mut MatrixMut<'_>,
) -> usize {
    let per_row = panel.len() * (B::WIDTH / BLOCK);
    let mut of_rows = [x; ROWS];
    for (offset, of_row) in of_rows.iter_mut().enumerate() {
        *of_row = &x[(row + offset) * per_row..][..per_row];
    }
    for first_lane in (0..PANEL_ROWS).step_by(I::LANES) {
        // Whoever comes later finds the panel in the cache, and asks for what is there: with a branch instead, a single row
        // takes 4 % longer.
        let ahead_bytes = if row == 0 && first_lane == 0 { AHEAD_BYTES } else { 0 };
        // SAFETY: the caller has the instructions.
        let mut sums = [unsafe { I::splat(0.0) }; ROWS];
        for (index, block) in panel.iter().enumerate() {
            prefetch(block, ahead_bytes);
            // SAFETY: the caller has the instructions, and the lanes are those of a panel.
            unsafe { block.add_products::<I, ROWS>(first_lane, &of_rows, index * (B::WIDTH / BLOCK), &mut sums) };
        }
        for (offset, sum) in sums.into_iter().enumerate() {
            let out = &mut out.row_mut(row + offset)[first_lane..first_lane + I::LANES];
            // SAFETY: the slice has `LANES` elements.
            unsafe { I::store(out.as_mut_ptr(), sum) };
        }
    }
    ROWS
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn product_avx2<B: VectorBlock>(panel: &[B], x: &[ActivationBlock], out: &mut MatrixMut<'_>) {
    // SAFETY: this function has the features.
    unsafe { product::<Avx2, B>(panel, x, out) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn product_avx512<B: VectorBlock>(panel: &[B], x: &[ActivationBlock], out: &mut MatrixMut<'_>) {
    // SAFETY: this function has the features.
    unsafe { product::<Avx512, B>(panel, x, out) }
}
