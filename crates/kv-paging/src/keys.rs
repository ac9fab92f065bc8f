//! Prefix keys: one hash for each full block of a token sequence, made once per request and extended as tokens arrive.
//!
//! Pure arithmetic on the caller's thread, whichever that is. Knows no pool and no index.

use alloc::vec::Vec;
use core::fmt;

use crate::TokenId;
use crate::config::is_block_size;
use crate::siphash::SipHash128;

/// What separates the prefix caches of two tenants: blocks are shared only under equal salts.
///
/// Give each tenant its own value, for example a cryptographic digest of the tenant's name, the model's revision and a
/// secret of the process. Equality of all 32 bytes is checked on every hit. The salt is the hash key as well, so a
/// tenant who does not know it cannot aim for long probe sequences in the index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Salt([u8; 32]);

impl Salt {
    /// A salt from its bytes; the default is all zeros, for a single tenant.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Key of the hash.
    fn hash_key(&self) -> (u64, u64) {
        let word = |range| u64::from_le_bytes(<[u8; 8]>::try_from(&self.0[range]).expect("eight bytes"));
        (word(0..8), word(8..16))
    }

    /// What stands in for the parent's key in the first block.
    fn root_key(&self) -> BlockKey {
        BlockKey(u128::from_le_bytes(<[u8; 16]>::try_from(&self.0[16..]).expect("sixteen bytes")))
    }
}

/// Hides the bytes: they may hold a secret.
impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salt(..)")
    }
}

/// Names a full block together with everything before it: SipHash-1-3 with 128-bit output, keyed by the first half of the
/// salt, of the block's tokens (a single token is padded to eight bytes) and then the parent's key (for a first block, the
/// second half of the salt), all little-endian.
///
/// A key finds candidates and names blocks in events. It decides nothing: a hit is confirmed by comparing tokens.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey(u128);

impl BlockKey {
    /// Names nothing.
    pub(crate) const ZERO: Self = Self(0);

    /// The key as a number.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }

    /// The bits that the index uses.
    pub(crate) const fn low_bits(self) -> u32 {
        self.0 as u32
    }

    fn child(self, (k0, k1): (u64, u64), tokens: &[TokenId]) -> Self {
        // The tokens come first: hashing them does not wait for the parent's key, so the processor works ahead.
        let mut hash = SipHash128::<1, 3>::new(k0, k1);
        let (pairs, single) = tokens.as_chunks::<2>();
        for [low, high] in pairs {
            hash.word(u64::from(*low) | u64::from(*high) << 32);
        }
        for token in single {
            hash.word(u64::from(*token));
        }
        hash.word(self.0 as u64);
        hash.word((self.0 >> 64) as u64);
        let num_words = tokens.len().div_ceil(2) + 2;
        Self(hash.finish(0, num_words * size_of::<u64>()))
    }
}

impl fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockKey({:032x})", self.0)
    }
}

/// A token sequence with the [`BlockKey`]s of its full blocks.
///
/// Hashing a prompt is the one cost that grows with its length, so it is done here, on any thread, before the request
/// meets the cache.
///
/// ```
/// use kv_paging::{PrefixKeys, Salt};
///
/// let mut keys = PrefixKeys::new(&Salt::default(), 4);
/// keys.extend(&[1, 2, 3, 4, 5, 6]);
/// assert_eq!((keys.num_tokens(), keys.num_blocks()), (6, 1));
/// keys.extend(&[7, 8]); // as tokens are sampled
/// assert_eq!((keys.num_tokens(), keys.num_blocks()), (8, 2));
/// ```
#[derive(Clone, Debug)]
pub struct PrefixKeys {
    salt: Salt,
    block_size: u32,
    tokens: Vec<TokenId>,
    keys: Vec<BlockKey>,
}

impl PrefixKeys {
    /// Keys of an empty sequence, for a cache with blocks of `block_size` tokens.
    ///
    /// # Panics
    /// If `block_size` is no power of two in `1..=`[`MAX_BLOCK_SIZE`](crate::MAX_BLOCK_SIZE).
    #[must_use]
    pub fn new(salt: &Salt, block_size: u32) -> Self {
        Self::with_capacity(salt, block_size, 0)
    }

    /// As [`new`](Self::new), with memory for `num_tokens` tokens, so that extending up to there allocates nothing.
    ///
    /// # Panics
    /// As for [`new`](Self::new).
    #[must_use]
    pub fn with_capacity(salt: &Salt, block_size: u32, num_tokens: u32) -> Self {
        assert!(is_block_size(block_size), "block_size {block_size} is no power of two in range");
        Self {
            salt: *salt,
            block_size,
            tokens: Vec::with_capacity(num_tokens as usize),
            keys: Vec::with_capacity((num_tokens / block_size) as usize),
        }
    }

    /// Appends tokens. Every block that they fill gets its key; returns those keys.
    ///
    /// # Panics
    /// If the sequence grows beyond `u32::MAX` tokens.
    pub fn extend(&mut self, tokens: &[TokenId]) -> &[BlockKey] {
        assert!(tokens.len() <= u32::MAX as usize - self.tokens.len(), "a sequence holds at most u32::MAX tokens");
        self.tokens.extend_from_slice(tokens);
        let block_size = self.block_size as usize;
        let hash_key = self.salt.hash_key();
        let num_old = self.keys.len();
        let mut parent = self.keys.last().copied().unwrap_or_else(|| self.salt.root_key());
        for block in self.tokens[self.keys.len() * block_size..].chunks_exact(block_size) {
            parent = parent.child(hash_key, block);
            self.keys.push(parent);
        }
        &self.keys[num_old..]
    }

    /// All tokens of the sequence.
    #[must_use]
    pub fn tokens(&self) -> &[TokenId] {
        &self.tokens
    }

    /// Tokens of the sequence.
    #[must_use]
    pub fn num_tokens(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// Full blocks of the sequence.
    #[must_use]
    pub fn num_blocks(&self) -> u32 {
        self.keys.len() as u32
    }

    /// Keys of the full blocks, in order.
    #[must_use]
    pub fn block_keys(&self) -> &[BlockKey] {
        &self.keys
    }

    /// Tokens a block holds.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Whose the sequence is.
    #[must_use]
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Tokens of full block `index`.
    pub(crate) fn block_tokens(&self, index: usize) -> &[TokenId] {
        let block_size = self.block_size as usize;
        &self.tokens[index * block_size..][..block_size]
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::{PrefixKeys, Salt};
    use crate::TokenId;

    fn keys_of(salt: u8, block_size: u32, pieces: &[&[TokenId]]) -> Vec<u128> {
        let mut bytes = [0; 32];
        bytes[31] = salt;
        let mut keys = PrefixKeys::new(&Salt::from_bytes(bytes), block_size);
        for piece in pieces {
            keys.extend(piece);
        }
        keys.block_keys().iter().map(|key| key.as_u128()).collect()
    }

    #[test]
    fn keys_depend_on_the_whole_prefix_and_on_nothing_else() {
        let whole = keys_of(0, 2, &[&[1, 2, 3, 4, 5]]);
        assert_eq!(whole.len(), 2);
        assert_eq!(whole, keys_of(0, 2, &[&[1], &[2, 3], &[], &[4], &[5]]), "pieces do not matter");
        assert_eq!(whole[..1], keys_of(0, 2, &[&[1, 2, 9, 9]])[..1], "later tokens do not matter");
        for (other, what) in [
            (keys_of(1, 2, &[&[1, 2, 3, 4]]), "salt"),
            (keys_of(0, 2, &[&[7, 2, 3, 4]]), "first block"),
            (keys_of(0, 2, &[&[1, 2, 3, 7]])[1..].to_vec(), "own tokens"),
            (keys_of(0, 2, &[&[3, 4]]), "position"),
            (keys_of(0, 4, &[&[1, 2, 3, 4]]), "block size"),
            (keys_of(0, 1, &[&[1, 2, 3, 4]]), "block size"),
        ] {
            assert!(other.iter().all(|key| !whole.contains(key)), "{what}");
        }
    }
}
