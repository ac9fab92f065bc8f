//! Loops that keep one part of a core as busy as the instructions of a path allow: what the other loops are measured
//! against. Knows operations, not clocks.

use core::hint::black_box;

use super::Path;
#[cfg(target_arch = "x86_64")]
use super::isa::{Avx2, Avx512, Isa};
#[cfg(target_arch = "x86_64")]
use crate::Instructions;

/// Sums that do not wait for each other: more than the latency of an instruction times how many begin in a cycle, and few
/// enough for the registers.
const CHAINS: usize = 12;

/// Activation blocks that an integer loop goes through: they stay in the first cache.
const BLOCKS: usize = 64;

/// Vectors that a loop over memory loads at a time.
#[cfg(target_arch = "x86_64")]
const LOADS: usize = 8;

/// A loop, and what it does.
pub(crate) trait Busy {
    fn plain(&self);

    /// # Safety
    /// The machine has the instructions of `I`.
    #[cfg(target_arch = "x86_64")]
    unsafe fn vectors<I: Isa>(&self);
}

/// Runs a loop on the calling thread.
pub(crate) fn keep_busy(path: Path, busy: &impl Busy) {
    match path.instructions() {
        // SAFETY: the path proves that the machine has these instructions.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => unsafe { vectors_avx2(busy) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 | Instructions::Avx512Bf16 => unsafe { vectors_avx512(busy) },
        _ => busy.plain(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn vectors_avx2(busy: &impl Busy) {
    // SAFETY: this function has the features.
    unsafe { busy.vectors::<Avx2>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn vectors_avx512(busy: &impl Busy) {
    // SAFETY: this function has the features.
    unsafe { busy.vectors::<Avx512>() }
}

/// f32 lanes of a path's vectors.
fn lanes(path: Path) -> u64 {
    match path.instructions() {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx2 => Avx2::LANES as u64,
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512 | Instructions::Avx512Bf16 => Avx512::LANES as u64,
        _ => 1,
    }
}

/// So many rounds of f32 multiply-adds, all in registers.
pub(crate) struct MultiplyAdds {
    pub(crate) rounds: u64,
}

impl MultiplyAdds {
    /// Multiplications and additions.
    pub(crate) fn operations(&self, path: Path) -> u64 {
        self.rounds * CHAINS as u64 * lanes(path) * 2
    }
}

impl Busy for MultiplyAdds {
    fn plain(&self) {
        // The sums tend to 1: neither infinite nor denormal.
        let (factor, addend) = black_box((0.5_f32, 0.5_f32));
        let mut sums = [0.0_f32; CHAINS];
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = sum.mul_add(factor, addend);
            }
        }
        black_box(sums);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn vectors<I: Isa>(&self) {
        let (factor, addend) = black_box((0.5, 0.5));
        // SAFETY: passed on to the caller.
        unsafe {
            let (factor, addend) = (I::splat(factor), I::splat(addend));
            let mut sums = [I::splat(0.0); CHAINS];
            for _ in 0..self.rounds {
                for sum in &mut sums {
                    *sum = I::mul_add(*sum, factor, addend);
                }
            }
            black_box(sums);
        }
    }
}

/// So many rounds of products of bfloat16, all in registers, and their multiplications and additions. Without an instruction
/// for pairs these are f32 multiply-adds.
pub(crate) fn multiply_brains(path: Path, rounds: u64) -> u64 {
    let singles = MultiplyAdds { rounds };
    match path.instructions() {
        #[cfg(target_arch = "x86_64")]
        Instructions::Avx512Bf16 => {
            // SAFETY: the path proves that the machine has these instructions.
            unsafe { pairs_avx512_bf16(rounds) };
            2 * singles.operations(path)
        }
        _ => {
            keep_busy(path, &singles);
            singles.operations(path)
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
fn pairs_avx512_bf16(rounds: u64) {
    use core::arch::x86_64::{_mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_set1_ps, _mm512_setzero_ps};

    let values = _mm512_set1_ps(black_box(0.5));
    let pairs = _mm512_cvtne2ps_pbh(values, values);
    let mut sums = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, pairs, pairs);
        }
    }
    black_box(sums);
}

/// So many rounds of integer dot products: the inner loop of quantised products without unpacking and scales. One block of
/// 4-bit weights stays in registers; activations come from the first cache.
pub(crate) struct DotProducts {
    pub(crate) rounds: u64,
}

impl DotProducts {
    /// Multiplications and additions.
    pub(crate) fn operations(&self, path: Path) -> u64 {
        self.rounds * (BLOCKS * 8 * 4) as u64 * lanes(path) * 2
    }
}

/// What activations are in these loops.
const ACTIVATIONS: [[[i8; 4]; 8]; BLOCKS] = [[[1, -2, 3, -4]; 8]; BLOCKS];

impl Busy for DotProducts {
    fn plain(&self) {
        let weights = black_box([[1_i32, 2, 3, 4]; 8]);
        let mut sum = 0_i32;
        for _ in 0..self.rounds {
            for x in black_box(&ACTIVATIONS) {
                for (weights, x) in weights.as_flattened().iter().zip(x.as_flattened()) {
                    sum = sum.wrapping_add(weights * i32::from(*x));
                }
            }
        }
        black_box(sum);
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn vectors<I: Isa>(&self) {
        let weights = black_box([0x0102_0304_i32; 8]);
        // SAFETY: passed on to the caller; a byte of the weights is at most 15.
        unsafe {
            let weights = weights.map(|weights| I::splat_int(weights));
            let mut sums = [I::splat_int(0); 8];
            for _ in 0..self.rounds {
                // Asked for anew each time, or the products would be moved out of the loop.
                for rows in black_box(&ACTIVATIONS).as_chunks::<8>().0 {
                    for (sum, x) in sums.iter_mut().zip(rows) {
                        *sum = I::dot::<15, 8>(*sum, &weights, x);
                    }
                }
            }
            black_box(sums);
        }
    }
}

/// Reads memory once, from its start to its end.
pub(crate) struct Reads<'a>(pub(crate) &'a [u8]);

impl Busy for Reads<'_> {
    fn plain(&self) {
        black_box(sum_of(self.0));
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn vectors<I: Isa>(&self) {
        let chunks = self.0.chunks_exact(LOADS * 4 * I::LANES);
        black_box(sum_of(chunks.remainder()));
        // SAFETY: passed on to the caller; a chunk has the bytes of all its vectors.
        unsafe {
            let mut sums = [I::splat_int(0); LOADS];
            for chunk in chunks {
                for (sum, bytes) in sums.iter_mut().zip(chunk.chunks_exact(4 * I::LANES)) {
                    *sum = I::add_int(*sum, I::load_bytes(bytes.as_ptr()));
                }
            }
            black_box(sums);
        }
    }
}

fn sum_of(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0, |sum: u64, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
    rest.iter().fold(words, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instructions;

    #[test]
    fn operations_are_those_of_all_lanes() {
        for instructions in Instructions::ALL.into_iter().filter(|path| path.available()) {
            let path = Path::new(instructions).expect("it is available");
            let expected = match instructions {
                Instructions::Plain => 1,
                Instructions::Avx2 => 8,
                Instructions::Avx512 | Instructions::Avx512Bf16 => 16,
            };
            assert_eq!(MultiplyAdds { rounds: 3 }.operations(path), 3 * 12 * 2 * expected);
            assert_eq!(DotProducts { rounds: 3 }.operations(path), 3 * 64 * 32 * 2 * expected);
            let per_lane = if instructions == Instructions::Avx512Bf16 { 2 } else { 1 };
            assert_eq!(multiply_brains(path, 3), 3 * 12 * 2 * expected * per_lane);
        }
    }
}
