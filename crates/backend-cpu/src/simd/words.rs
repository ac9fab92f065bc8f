//! Memory of plain words seen as something else of plain words. Knows sizes, not what is in it.

use crate::quantise::{ActivationBlock, BLOCK};

/// Words of a block of activations.
pub(crate) const BLOCK_WORDS: usize = size_of::<ActivationBlock>() / size_of::<u32>();

/// Whole blocks in the place of words.
pub(crate) fn as_blocks(words: &mut [u32]) -> &mut [ActivationBlock] {
    const { assert!(size_of::<ActivationBlock>() == BLOCK + 4 * size_of::<u32>()) };
    const { assert!(align_of::<ActivationBlock>() == align_of::<u32>()) };
    assert!(words.len().is_multiple_of(BLOCK_WORDS), "whole blocks");
    // SAFETY: a block is as long as so many words and as aligned, and has no padding; its integers and floats may have any
    // bits, as words may.
    unsafe { core::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), words.len() / BLOCK_WORDS) }
}
