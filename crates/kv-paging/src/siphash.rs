//! SipHash with 128-bit output (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012; the 128-bit variant of
//! the authors' reference code). Knows words, not tokens.
//!
//! `C` rounds a word and `D` at the end. The crate uses SipHash-1-3, as the standard library does for its maps; the tests
//! check the code with the published vectors of SipHash-2-4.

/// A running hash of 64-bit words.
pub(crate) struct SipHash128<const C: usize, const D: usize> {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl<const C: usize, const D: usize> SipHash128<C, D> {
    pub(crate) fn new(k0: u64, k1: u64) -> Self {
        Self {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
        }
    }

    /// Takes in the next eight bytes of the input, as a little-endian word.
    #[inline]
    pub(crate) fn word(&mut self, word: u64) {
        self.v3 ^= word;
        for _ in 0..C {
            self.round();
        }
        self.v0 ^= word;
    }

    /// Takes in the remaining zero to seven bytes, as a little-endian word, and closes the hash of `len_bytes` in all.
    #[inline]
    pub(crate) fn finish(mut self, tail: u64, len_bytes: usize) -> u128 {
        self.word(tail | (len_bytes as u64) << 56);
        self.v2 ^= 0xee;
        let low = self.squeeze();
        self.v1 ^= 0xdd;
        let high = self.squeeze();
        u128::from(low) | u128::from(high) << 64
    }

    fn squeeze(&mut self) -> u64 {
        for _ in 0..D {
            self.round();
        }
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    #[inline]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use alloc::format;

    use super::SipHash128;

    /// The first `len` bytes 0, 1, 2, … under the key 0, 1, … 15, as in the authors' `vectors.h`.
    fn check(len: usize, expected: &str) {
        let bytes: [u8; 64] = core::array::from_fn(|i| i as u8);
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let mut hash = SipHash128::<2, 4>::new(word(&bytes[..8]), word(&bytes[8..16]));
        let words = bytes[..len].chunks_exact(8);
        let tail = word(words.remainder());
        words.for_each(|chunk| hash.word(word(chunk)));
        let bytes_as_number = u128::from_be_bytes(hash.finish(tail, len).to_le_bytes());
        assert_eq!(format!("{bytes_as_number:032x}"), expected, "{len} bytes");
    }

    #[test]
    fn published_vectors() {
        check(0, "a3817f04ba25a8e66df67214c7550293");
        check(1, "da87c1d86b99af44347659119b22fc45");
        check(2, "8177228da4a45dc7fca38bdef60affe4");
        check(15, "5493e99933b0a8117e08ec0f97cfc3d9");
        check(16, "6ee2a4ca67b054bbfd3315bf85230577");
        check(17, "473d06e8738db89854c066c47ae47740");
    }
}
