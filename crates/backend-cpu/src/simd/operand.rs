//! What the products of this module multiply: stored words, the activations that meet them, and how a vector of either is
//! taken. Knows single vectors, not shapes.

use super::{Matrix, Path, round_row};
use crate::pairs::{Pairs, halves};

/// A stored format, word by word.
pub(crate) trait Operand: 'static {
    /// An element, or a pair of them that follow one another in a sum.
    type Word: Copy + Default + Send + Sync;
    /// A word of activations.
    type X: Copy + Default;
    /// Elements of a stored word.
    const ELEMENTS: usize;

    /// How the instructions of vectors take them; see [`MultiplyAdd`].
    #[cfg(target_arch = "x86_64")]
    type Avx2: MultiplyAdd<Isa = Avx2, Word = Self::Word, X = Self::X>;
    #[cfg(target_arch = "x86_64")]
    type Avx512: MultiplyAdd<Isa = Avx512, Word = Self::Word, X = Self::X>;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16: MultiplyAdd<Isa = Avx512, Word = Self::Word, X = Self::X>;

    /// Words of activations that meet a stored word.
    fn x_per_word(path: Path) -> usize;

    /// Rows of activations as the products take them, in `scratch` if they must be converted; an odd element is followed by
    /// a zero.
    fn take<'a>(path: Path, rows: Matrix<'a>, scratch: &'a mut [Self::X]) -> Matrix<'a, Self::X>;

    /// `sum + word * x`, element by element in ascending order, each step one fused multiply-add. Every vector version gives
    /// these bits.
    fn multiply_add(sum: f32, word: Self::Word, x: &[Self::X]) -> f32;

    /// A word with element `nth` of another as its first, and zero behind it.
    fn alone(word: Self::Word, nth: usize) -> Self::Word;

    /// Whether no element is an infinity or NaN.
    fn is_finite(word: Self::Word) -> bool;
}

/// Elements of their own, multiplied in f32.
impl<S: VectorNumber> Operand for S {
    type Word = S::Bits;
    type X = f32;
    const ELEMENTS: usize = 1;

    #[cfg(target_arch = "x86_64")]
    type Avx2 = Numbers<Avx2, S>;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = Numbers<Avx512, S>;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = Numbers<Avx512, S>;

    fn x_per_word(_path: Path) -> usize {
        1
    }

    fn take<'a>(_path: Path, rows: Matrix<'a>, _scratch: &'a mut [f32]) -> Matrix<'a> {
        rows
    }

    #[inline(always)]
    fn multiply_add(sum: f32, word: S::Bits, x: &[f32]) -> f32 {
        x[0].mul_add(S::to_f32(word), sum)
    }

    fn alone(word: S::Bits, _nth: usize) -> S::Bits {
        word
    }

    #[inline(always)]
    fn is_finite(word: S::Bits) -> bool {
        S::to_f32(word).is_finite()
    }
}

/// Pairs of bfloat16: see [`pairs`](crate::pairs) for why all paths agree.
impl Operand for Pairs {
    type Word = u32;
    type X = u32;
    const ELEMENTS: usize = 2;

    #[cfg(target_arch = "x86_64")]
    type Avx2 = OneByOne<Avx2>;
    #[cfg(target_arch = "x86_64")]
    type Avx512 = OneByOne<Avx512>;
    #[cfg(target_arch = "x86_64")]
    type Avx512Bf16 = Together;

    fn x_per_word(path: Path) -> usize {
        path.words().per_row(Self::ELEMENTS)
    }

    fn take<'a>(path: Path, rows: Matrix<'a>, scratch: &'a mut [u32]) -> Matrix<'a, u32> {
        let width = path.words().per_row(rows.cols());
        for (row, out) in scratch.chunks_exact_mut(width).take(rows.rows()).enumerate() {
            round_row(path, rows.row(row), out);
        }
        Matrix::new(scratch, rows.rows(), width, width)
    }

    #[inline(always)]
    fn multiply_add(sum: f32, word: u32, x: &[u32]) -> f32 {
        let x = if let [pair] = *x { halves(pair) } else { [f32::from_bits(x[0]), f32::from_bits(x[1])] };
        let word = halves(word);
        x[1].mul_add(word[1], x[0].mul_add(word[0], sum))
    }

    #[inline(always)]
    fn alone(word: u32, nth: usize) -> u32 {
        if nth == 0 { word & 0xFFFF_0000 } else { word << 16 }
    }

    #[inline(always)]
    fn is_finite(word: u32) -> bool {
        const EXPONENT: u32 = 0x7F80;
        word & EXPONENT != EXPONENT && word >> 16 & EXPONENT != EXPONENT
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) use crate::float::StoredNumber as VectorNumber;
#[cfg(target_arch = "x86_64")]
pub(crate) use vector::VectorNumber;
#[cfg(target_arch = "x86_64")]
pub(super) use {
    super::isa::{Avx2, Avx512},
    vector::{MultiplyAdd, Numbers, OneByOne, Together, accumulate},
};

#[cfg(target_arch = "x86_64")]
mod vector {
    use core::arch::x86_64::{__m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_set1_epi32};
    use core::marker::PhantomData;
    use core::mem::transmute;

    use crate::float::{Byte, Half, Single, StoredNumber};
    use crate::simd::isa::{Avx512, Isa};

    /// Elements that can be loaded into vectors.
    pub(crate) trait VectorNumber: StoredNumber {
        /// `I::LANES` elements as f32.
        ///
        /// # Safety
        /// The machine has the instructions of `I`, and `from` is valid for `I::LANES` elements.
        unsafe fn load<I: Isa>(from: *const Self::Bits) -> I::Float;
    }

    impl VectorNumber for Single {
        #[inline(always)]
        unsafe fn load<I: Isa>(from: *const f32) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { I::load(from) }
        }
    }

    impl VectorNumber for Half {
        #[inline(always)]
        unsafe fn load<I: Isa>(from: *const u16) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { I::load_half(from) }
        }
    }

    impl VectorNumber for Byte {
        #[inline(always)]
        unsafe fn load<I: Isa>(from: *const i8) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { I::to_float(I::load_i8(from)) }
        }
    }

    /// How a vector of stored words is multiplied and added.
    ///
    /// # Safety
    /// Every function needs the instructions of `Isa`, and what the implementing type needs besides.
    pub(crate) trait MultiplyAdd {
        type Isa: Isa;
        type Word: Copy;
        type X: Copy;
        /// A vector of words as it is loaded.
        type Loaded: Copy;
        /// What one multiply-add takes of it.
        type Part: Copy;
        /// Multiply-adds, and words of activations, for a stored word.
        const PARTS: usize;

        /// Reads `LANES` words.
        unsafe fn load(from: *const Self::Word) -> Self::Loaded;

        unsafe fn part(words: Self::Loaded, part: usize) -> Self::Part;

        /// `sum + words * x`
        unsafe fn add(sum: <Self::Isa as Isa>::Float, words: Self::Part, x: Self::X) -> <Self::Isa as Isa>::Float;
    }

    /// Elements of their own.
    pub(crate) struct Numbers<I, S>(PhantomData<(I, S)>);

    impl<I: Isa, S: VectorNumber> MultiplyAdd for Numbers<I, S> {
        type Isa = I;
        type Word = S::Bits;
        type X = f32;
        type Loaded = I::Float;
        type Part = I::Float;
        const PARTS: usize = 1;

        #[inline(always)]
        unsafe fn load(from: *const S::Bits) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { S::load::<I>(from) }
        }

        #[inline(always)]
        unsafe fn part(words: I::Float, _part: usize) -> I::Float {
            words
        }

        #[inline(always)]
        unsafe fn add(sum: I::Float, words: I::Float, x: f32) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { I::mul_add(I::splat(x), words, sum) }
        }
    }

    /// Pairs of bfloat16, element by element in single precision.
    pub(crate) struct OneByOne<I>(PhantomData<I>);

    impl<I: Isa> MultiplyAdd for OneByOne<I> {
        type Isa = I;
        type Word = u32;
        type X = u32;
        type Loaded = I::Int;
        type Part = I::Float;
        const PARTS: usize = 2;

        #[inline(always)]
        unsafe fn load(from: *const u32) -> I::Int {
            // SAFETY: passed on to the caller.
            unsafe { I::load_bytes(from.cast()) }
        }

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
        unsafe fn add(sum: I::Float, element: I::Float, x: u32) -> I::Float {
            // SAFETY: passed on to the caller.
            unsafe { I::mul_add(I::splat(f32::from_bits(x)), element, sum) }
        }
    }

    /// Pairs of bfloat16 with AVX-512 BF16.
    pub(crate) struct Together;

    impl MultiplyAdd for Together {
        type Isa = Avx512;
        type Word = u32;
        type X = u32;
        type Loaded = __m512i;
        type Part = __m512i;
        const PARTS: usize = 1;

        #[inline(always)]
        unsafe fn load(from: *const u32) -> __m512i {
            // SAFETY: passed on to the caller.
            unsafe { Avx512::load_bytes(from.cast()) }
        }

        #[inline(always)]
        unsafe fn part(pairs: __m512i, _part: usize) -> __m512i {
            pairs
        }

        #[inline(always)]
        unsafe fn add(sum: __m512, pairs: __m512i, x: u32) -> __m512 {
            // SAFETY: the caller has AVX-512 BF16; the vectors are reinterpreted as others of the same size.
            unsafe {
                let x = _mm512_set1_epi32(x.cast_signed());
                _mm512_dpbf16_ps(sum, transmute::<__m512i, __m512bh>(pairs), transmute::<__m512i, __m512bh>(x))
            }
        }
    }

    /// Sums of `ROWS` rows by `VECTORS` vectors, which stay in registers.
    pub(crate) type Sums<M, const ROWS: usize, const VECTORS: usize> =
        [[<<M as MultiplyAdd>::Isa as Isa>::Float; VECTORS]; ROWS];

    /// The sums, and the products of `len` words of each of the vectors, `stride` words apart, with the rows of `x`,
    /// `x_stride` apart.
    ///
    /// # Safety
    /// The machine has the instructions of `M`, and the pointers are valid for what is read.
    #[inline(always)]
    pub(crate) unsafe fn accumulate<M: MultiplyAdd, const ROWS: usize, const VECTORS: usize>(
        mut sums: Sums<M, ROWS, VECTORS>,
        (x, x_stride): (*const M::X, usize),
        mut words: [*const M::Word; VECTORS],
        stride: usize,
        len: usize,
    ) -> Sums<M, ROWS, VECTORS> {
        for k in 0..len {
            // SAFETY: passed on to the caller.
            unsafe {
                let loaded = words.map(|words| M::load(words));
                for part in 0..M::PARTS {
                    let parts = loaded.map(|words| M::part(words, part));
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = x.wrapping_add(r * x_stride + k * M::PARTS + part).read();
                        for (sum, &part) in sums.iter_mut().zip(&parts) {
                            *sum = M::add(*sum, part, x);
                        }
                    }
                }
            }
            words = words.map(|words| words.wrapping_add(stride));
        }
        sums
    }
}
