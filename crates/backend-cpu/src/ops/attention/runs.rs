//! Ranges of positions, and the blocks that they lie in. Knows numbers only.

use core::ops::Range;

/// Consecutive positions inside of one block.
pub(super) struct BlockRun {
    /// Index into the block table.
    pub(super) block_index: usize,
    /// Positions inside of the block.
    pub(super) slots: Range<usize>,
    /// Position in the context of the first of them.
    pub(super) first_position: usize,
}

pub(super) fn block_runs(positions: Range<usize>, block_size: usize) -> impl Iterator<Item = BlockRun> {
    let mut next = positions.start;
    core::iter::from_fn(move || {
        if next >= positions.end {
            return None;
        }
        let (block_index, slot) = (next / block_size, next % block_size);
        let len = (positions.end - next).min(block_size - slot);
        let run = BlockRun { block_index, slots: slot..slot + len, first_position: next };
        next += len;
        Some(run)
    })
}

/// What both ranges hold; it may be empty with any ends.
pub(super) fn intersection(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.max(b.start)..a.end.min(b.end)
}

/// The smallest range that holds all `ranges`.
pub(super) fn hull(ranges: &[Range<usize>]) -> Range<usize> {
    let start = ranges.iter().map(|range| range.start).min().unwrap_or(0);
    start..ranges.iter().map(|range| range.end).max().unwrap_or(start)
}
