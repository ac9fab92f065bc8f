//! Vector registers of one width, and the operations on them that the inner loops are written in. Knows instructions, not
//! their use.
//!
//! The functions carry no target features of their own: they are inlined into callers that do, as in the `memchr` crate.

use core::arch::x86_64::*;

/// Vectors of 32-bit lanes.
///
/// # Safety
/// Every function needs the instructions of the implementing type; functions with a pointer also need it to be valid for
/// as many elements as they say.
pub(crate) trait Isa: Copy + 'static {
    /// f32 lanes.
    type Float: Copy;
    /// 32-bit lanes, or four bytes in each.
    type Int: Copy;
    const LANES: usize;
    /// Rows of the largest tile of float products whose sums fit into the registers.
    const TILE_ROWS: usize;

    unsafe fn splat(value: f32) -> Self::Float;
    /// Reads `LANES` elements.
    unsafe fn load(from: *const f32) -> Self::Float;
    /// Reads `LANES` IEEE half-precision elements.
    unsafe fn load_half(from: *const u16) -> Self::Float;
    /// Reads `LANES` unsigned bytes.
    unsafe fn load_u8(from: *const u8) -> Self::Float;
    /// Writes `LANES` elements.
    unsafe fn store(to: *mut f32, value: Self::Float);
    unsafe fn add(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn sub(a: Self::Float, b: Self::Float) -> Self::Float;
    unsafe fn mul(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a` where it is larger, else `b`.
    unsafe fn max(a: Self::Float, b: Self::Float) -> Self::Float;
    /// Zero in the lanes in which `x` is below `limit`.
    unsafe fn zero_where_below(value: Self::Float, x: Self::Float, limit: f32) -> Self::Float;
    /// The sum of 16 lanes, in halves.
    unsafe fn fold_sum<const VECTORS: usize>(vectors: [Self::Float; VECTORS]) -> f32;
    /// The largest of 16 lanes.
    unsafe fn fold_max<const VECTORS: usize>(vectors: [Self::Float; VECTORS]) -> f32;
    /// `a * b + c`, rounded once.
    unsafe fn mul_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// `c - a * b`, rounded once.
    unsafe fn mul_sub_from(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;

    unsafe fn splat_int(value: i32) -> Self::Int;
    /// Reads `4 * LANES` bytes.
    unsafe fn load_bytes(from: *const u8) -> Self::Int;
    /// Reads `LANES` signed bytes, widened to lanes.
    unsafe fn load_i8(from: *const i8) -> Self::Int;
    unsafe fn and(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn or(a: Self::Int, b: Self::Int) -> Self::Int;
    /// Shifts lanes left, or right where `by` is negative.
    unsafe fn shift(a: Self::Int, by: i32) -> Self::Int;
    unsafe fn add_int(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn sub_int(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn mul_int(a: Self::Int, b: Self::Int) -> Self::Int;
    unsafe fn to_float(a: Self::Int) -> Self::Float;
    /// The floats that have these bits.
    unsafe fn from_bits(a: Self::Int) -> Self::Float;
    unsafe fn to_bits(a: Self::Float) -> Self::Int;

    /// In each lane, `start` and the sum over `i < N` and `j < 4` of byte `j` of `weights[i]`, unsigned and at most `MAX`,
    /// times `x[i][j]`.
    unsafe fn dot<const MAX: i32, const N: usize>(
        start: Self::Int,
        weights: &[Self::Int; N],
        x: &[[i8; 4]],
    ) -> Self::Int;

    /// The sum for signed bytes and eight vectors; `less_sum` is less the sum of all `x`, none of which is -128.
    unsafe fn dot_signed(weights: &[Self::Int; 8], x: &[[i8; 4]; 8], less_sum: i32) -> Self::Int;
}

/// How long before their use weights are asked for. The processor itself looks ahead within a page only and starts anew at
/// each, and panels are not much longer than one. Twice as much is slower where two threads take turns at a weight.
pub(crate) const AHEAD_BYTES: usize = 8 << 10;

/// Asks for the memory that lies `ahead_bytes` behind a value, as much as the value has. There need be none.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T, ahead_bytes: usize) {
    const LINE_BYTES: usize = 64;
    let start = core::ptr::from_ref(value).cast::<i8>().wrapping_add(ahead_bytes);
    for line in 0..size_of::<T>().div_ceil(LINE_BYTES) {
        // SAFETY: every x86-64 has the instruction; it is a hint that reads nothing and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * LINE_BYTES)) };
    }
}

/// The sum of eight lanes, in halves.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn sum_of_8(lanes: __m256) -> f32 {
    // SAFETY: passed on to the caller.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}

/// The largest of eight lanes.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn max_of_8(lanes: __m256) -> f32 {
    // SAFETY: passed on to the caller.
    unsafe {
        let four = _mm_max_ps(_mm256_castps256_ps128(lanes), _mm256_extractf128_ps::<1>(lanes));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
}

/// The lower and the upper eight lanes.
///
/// # Safety
/// The machine has AVX-512 F and DQ.
#[inline(always)]
unsafe fn halves(lanes: __m512) -> [__m256; 2] {
    // SAFETY: passed on to the caller.
    unsafe { [_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps::<1>(lanes)] }
}

/// Eight lanes, with AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

// SAFETY of the blocks below: the caller has AVX2, FMA and F16C, and vouches for the pointers.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "argued once above: each block is one intrinsic of the type's own set"
)]
impl Isa for Avx2 {
    type Float = __m256;
    type Int = __m256i;
    const LANES: usize = 8;
    const TILE_ROWS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m256) {
        unsafe { _mm256_storeu_ps(to, value) }
    }

    #[inline(always)]
    unsafe fn add(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn zero_where_below(value: __m256, x: __m256, limit: f32) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(x, _mm256_set1_ps(limit)), value) }
    }

    #[inline(always)]
    unsafe fn fold_sum<const VECTORS: usize>(vectors: [__m256; VECTORS]) -> f32 {
        unsafe { sum_of_8(_mm256_add_ps(vectors[0], vectors[1])) }
    }

    #[inline(always)]
    unsafe fn fold_max<const VECTORS: usize>(vectors: [__m256; VECTORS]) -> f32 {
        unsafe { max_of_8(_mm256_max_ps(vectors[0], vectors[1])) }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul_sub_from(a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> __m256i {
        unsafe { _mm256_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m256i {
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m256i {
        unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())) }
    }

    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn shift(a: __m256i, by: i32) -> __m256i {
        if by >= 0 {
            unsafe { _mm256_sll_epi32(a, _mm_cvtsi32_si128(by)) }
        } else {
            unsafe { _mm256_srl_epi32(a, _mm_cvtsi32_si128(-by)) }
        }
    }

    #[inline(always)]
    unsafe fn add_int(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub_int(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_int(a: __m256i, b: __m256i) -> __m256i {
        unsafe { _mm256_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m256i) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn to_bits(a: __m256) -> __m256i {
        unsafe { _mm256_castps_si256(a) }
    }

    #[inline(always)]
    unsafe fn from_bits(a: __m256i) -> __m256 {
        unsafe { _mm256_castsi256_ps(a) }
    }

    /// Sums of pairs are formed in 16 bits, as many of them as cannot overflow, before they are widened.
    #[inline(always)]
    unsafe fn dot<const MAX: i32, const N: usize>(start: __m256i, weights: &[__m256i; N], x: &[[i8; 4]]) -> __m256i {
        let pairs = (i16::MAX as i32 / (2 * 127 * MAX)) as usize;
        let ones = unsafe { _mm256_set1_epi16(1) };
        let mut sum = start;
        let mut first = 0;
        while first < N {
            let mut short = unsafe { _mm256_setzero_si256() };
            let mut i = first;
            while i < N && i < first + pairs {
                let x = unsafe { _mm256_set1_epi32(i32::from_ne_bytes(x[i].map(i8::cast_unsigned))) };
                short = unsafe { _mm256_add_epi16(short, _mm256_maddubs_epi16(weights[i], x)) };
                i += 1;
            }
            sum = unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(short, ones)) };
            first += pairs;
        }
        sum
    }

    /// `w * x = |w| * (x with the sign of w)`; as `|x| <= 127`, a sum of two such products fits into 16 bits.
    #[inline(always)]
    unsafe fn dot_signed(weights: &[__m256i; 8], x: &[[i8; 4]; 8], _less_sum: i32) -> __m256i {
        let ones = unsafe { _mm256_set1_epi16(1) };
        let mut sum = unsafe { _mm256_setzero_si256() };
        for (&weights, x) in weights.iter().zip(x) {
            let x = unsafe { _mm256_set1_epi32(i32::from_ne_bytes(x.map(i8::cast_unsigned))) };
            let pairs = unsafe { _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights)) };
            sum = unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones)) };
        }
        sum
    }
}

/// Sixteen lanes, with AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

// SAFETY of the blocks below: the caller has AVX-512 F, BW, DQ, VL and VNNI, and vouches for the pointers.
#[allow(
    clippy::undocumented_unsafe_blocks,
    reason = "argued once above: each block is one intrinsic of the type's own set"
)]
impl Isa for Avx512 {
    type Float = __m512;
    type Int = __m512i;
    const LANES: usize = 16;
    const TILE_ROWS: usize = 12;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        unsafe { _mm512_loadu_ps(from) }
    }

    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> __m512 {
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m512) {
        unsafe { _mm512_storeu_ps(to, value) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn zero_where_below(value: __m512, x: __m512, limit: f32) -> __m512 {
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(limit)), value) }
    }

    #[inline(always)]
    unsafe fn fold_sum<const VECTORS: usize>(vectors: [__m512; VECTORS]) -> f32 {
        unsafe {
            let [low, high] = halves(vectors[0]);
            sum_of_8(_mm256_add_ps(low, high))
        }
    }

    #[inline(always)]
    unsafe fn fold_max<const VECTORS: usize>(vectors: [__m512; VECTORS]) -> f32 {
        unsafe {
            let [low, high] = halves(vectors[0]);
            max_of_8(_mm256_max_ps(low, high))
        }
    }

    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn mul_sub_from(a: __m512, b: __m512, c: __m512) -> __m512 {
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn splat_int(value: i32) -> __m512i {
        unsafe { _mm512_set1_epi32(value) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m512i {
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())) }
    }

    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn shift(a: __m512i, by: i32) -> __m512i {
        if by >= 0 {
            unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(by)) }
        } else {
            unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(-by)) }
        }
    }

    #[inline(always)]
    unsafe fn add_int(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub_int(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn mul_int(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn to_float(a: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(a) }
    }

    #[inline(always)]
    unsafe fn to_bits(a: __m512) -> __m512i {
        unsafe { _mm512_castps_si512(a) }
    }

    #[inline(always)]
    unsafe fn from_bits(a: __m512i) -> __m512 {
        unsafe { _mm512_castsi512_ps(a) }
    }

    #[inline(always)]
    unsafe fn dot<const MAX: i32, const N: usize>(start: __m512i, weights: &[__m512i; N], x: &[[i8; 4]]) -> __m512i {
        // Two sums: each product waits for the one before it in its sum.
        let mut sums = [start, unsafe { _mm512_setzero_si512() }];
        for (index, (&weights, x)) in weights.iter().zip(x).enumerate() {
            let sum = &mut sums[index % 2];
            let x = unsafe { _mm512_set1_epi32(i32::from_ne_bytes(x.map(i8::cast_unsigned))) };
            *sum = unsafe { _mm512_dpbusd_epi32(*sum, weights, x) };
        }
        unsafe { _mm512_add_epi32(sums[0], sums[1]) }
    }

    /// The instruction takes unsigned weights: 128 is added to each, and 128 times the sum of `x` taken off.
    #[inline(always)]
    unsafe fn dot_signed(weights: &[__m512i; 8], x: &[[i8; 4]; 8], less_sum: i32) -> __m512i {
        let bias = unsafe { _mm512_set1_epi8(-128) };
        let mut unsigned = *weights;
        for weights in &mut unsigned {
            *weights = unsafe { _mm512_xor_si512(*weights, bias) };
        }
        unsafe { Self::dot::<255, 8>(Self::shift(Self::splat_int(less_sum), 7), &unsigned, x) }
    }
}
