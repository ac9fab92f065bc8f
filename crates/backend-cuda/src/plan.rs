//! The attention work of a step, planned on the host once for all layers: which splits of which contexts the decode kernel
//! takes, and which tiles of new tokens the prefill kernel. Knows lengths, not memory.
//!
//! A row that brings one token goes to the decode kernel, which splits its context over the GPU, or is a tile like any other:
//! always if results are to depend on nothing but the row, for then all must be computed in one way; and where so many rows
//! with contexts so long come together that the GPU is full without splits, and the prefill kernel reads faster.

use core::ops::Range;

use kernels_sys::{PwDecodeItem, PwPrefillTile};
use tensor_backend::{AttentionLayout, StepInputs};

use crate::Arithmetic;

/// The work lists, refilled in place.
#[derive(Debug, Default)]
pub(crate) struct AttentionPlan {
    /// Splits of rows that bring one token.
    pub(crate) items: Vec<PwDecodeItem>,
    /// Tiles of the other rows, those with the longest contexts first.
    pub(crate) tiles: Vec<PwPrefillTile>,
}

/// How the kernels cut their work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cuts {
    pub(crate) attention: AttentionLayout,
    /// Most tokens of a tile.
    pub(crate) tile_tokens: u32,
    pub(crate) arithmetic: Arithmetic,
    pub(crate) num_multiprocessors: u32,
}

/// Rows with fewer others are never faster as tiles.
const MIN_TILED_ROWS: usize = 128;
/// Nor are those whose contexts are shorter than this, on average: measured on an H100 (`docs/kernels/prefill_attention.md`).
const MIN_TILED_CONTEXT: u64 = 768;

/// Splits are whole multiples of this many tokens: enough for one to fill a block of threads for a while.
const SPLIT_TOKENS: u32 = 256;
/// Most splits of a context: enough for a single long one to fill the GPU, with eight key-value heads.
const MAX_SPLITS: u32 = 16;

/// How long a split is, for a context of so many tokens. Depends on nothing else, so that a result never depends on the
/// load.
fn split_tokens(num_tokens: u32) -> u32 {
    num_tokens.div_ceil(MAX_SPLITS).next_multiple_of(SPLIT_TOKENS)
}

/// Most splits of any context up to this length.
pub(crate) fn max_splits(max_tokens: u32) -> u32 {
    max_tokens.div_ceil(SPLIT_TOKENS).min(MAX_SPLITS)
}

impl Cuts {
    /// Positions that the token at the end of a context sees.
    fn visible(&self, context_len: u32) -> u32 {
        self.attention.sliding_window.map_or(context_len, |window| context_len.min(window as u32))
    }

    /// Whether a decode step of so many rows, padding included, may have tiles.
    pub(crate) fn may_tile_decodes(&self, rows: usize) -> bool {
        self.arithmetic == Arithmetic::BatchInvariant || rows >= MIN_TILED_ROWS
    }

    /// Whether rows that bring one token are tiles, in a step with these contexts of such rows.
    fn tiles_single_tokens(&self, context_lens: impl Iterator<Item = u32>) -> bool {
        if self.arithmetic == Arithmetic::BatchInvariant {
            return true;
        }
        let (mut num_rows, mut total, mut longest) = (0, 0, 0);
        for context_len in context_lens {
            let visible = u64::from(self.visible(context_len));
            num_rows += 1;
            total += visible;
            longest = longest.max(visible);
        }
        // A tile is computed by one multiprocessor: the longest must not be what is left at the end.
        let share = total * self.attention.num_kv_heads as u64 / u64::from(self.num_multiprocessors);
        num_rows >= MIN_TILED_ROWS && total >= MIN_TILED_CONTEXT * num_rows as u64 && 2 * longest <= share
    }
}

impl AttentionPlan {
    /// Plans a step.
    pub(crate) fn plan(&mut self, step: &StepInputs, cuts: &Cuts) {
        self.items.clear();
        self.tiles.clear();
        let (mut num_partials, mut num_counters) = (0, 0);
        let rows = step.row_starts.windows(2).zip(&step.context_lens);
        let single = rows.filter(|(bounds, _)| bounds[1] - bounds[0] == 1).map(|(_, context_len)| *context_len);
        let tiles_single_tokens = cuts.tiles_single_tokens(single);
        for (row, bounds) in step.row_starts.windows(2).enumerate() {
            let (first_token, num_tokens) = (bounds[0], bounds[1] - bounds[0]);
            let (slot, context_len) = (step.row_slots[row].0, step.context_lens[row]);
            if num_tokens > 1 || tiles_single_tokens {
                self.tiles.extend(tiles(bounds[0]..bounds[1], context_len - num_tokens, slot, cuts.tile_tokens));
                continue;
            }
            let visible = cuts.visible(context_len);
            let num_splits =
                self.add_items(first_token, slot, context_len - visible..context_len, [num_partials, num_counters]);
            if num_splits > 1 {
                num_partials += num_splits;
                num_counters += 1;
            }
        }
        self.tiles.sort_unstable_by_key(|tile| core::cmp::Reverse(tile.first_position + tile.num_tokens));
    }

    /// ```text
    /// begin ......................................... end
    /// [ split 0 )[ split 1 )[ split 2 )[ what is left )
    /// ```
    fn add_items(&mut self, token: u32, slot: u32, visible: Range<u32>, [first_partial, counter]: [u32; 2]) -> u32 {
        let len = visible.end - visible.start;
        let split_tokens = split_tokens(len);
        let num_splits = len.div_ceil(split_tokens);
        for split in 0..num_splits {
            let begin = visible.start + split * split_tokens;
            self.items.push(PwDecodeItem {
                token: token as i32,
                slot: slot as i32,
                begin: begin as i32,
                end: visible.end.min(begin + split_tokens) as i32,
                split: split as i32,
                num_splits: num_splits as i32,
                first_partial: first_partial as i32,
                counter: counter as i32,
            });
        }
        num_splits
    }
}

/// The tiles of a row whose tokens are `tokens` of the step, the first of them at position `start`.
fn tiles(tokens: Range<u32>, start: u32, slot: u32, tile_tokens: u32) -> impl Iterator<Item = PwPrefillTile> {
    tokens.clone().step_by(tile_tokens as usize).map(move |first| PwPrefillTile {
        first_token: first as i32,
        num_tokens: tile_tokens.min(tokens.end - first) as i32,
        first_position: (start + first - tokens.start) as i32,
        slot: slot as i32,
    })
}

#[cfg(test)]
mod tests {
    use serving_types::RowSlot;

    use super::*;

    fn cuts(sliding_window: Option<usize>) -> Cuts {
        let attention = AttentionLayout { num_heads: 4, num_kv_heads: 2, head_dim: 64, block_size: 16, sliding_window };
        Cuts { attention, tile_tokens: 32, arithmetic: Arithmetic::Fastest, num_multiprocessors: 8 }
    }

    /// Rows as (slot, tokens already there, new tokens).
    fn step(rows: &[(u32, u32, u32)]) -> StepInputs {
        let mut step = StepInputs { row_starts: vec![0], ..StepInputs::default() };
        for &(slot, start, num_tokens) in rows {
            step.row_starts.push(step.row_starts.last().unwrap() + num_tokens);
            step.row_slots.push(RowSlot(slot));
            step.context_lens.push(start + num_tokens);
        }
        step
    }

    /// Items as (token, slot, begin, end, split, splits, partial, counter).
    #[track_caller]
    fn check_items(rows: &[(u32, u32, u32)], window: Option<usize>, expected: &[[i32; 8]]) {
        let mut plan = AttentionPlan::default();
        plan.plan(&step(rows), &cuts(window));
        let found: Vec<[i32; 8]> = plan
            .items
            .iter()
            .map(|i| [i.token, i.slot, i.begin, i.end, i.split, i.num_splits, i.first_partial, i.counter])
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn single_tokens_are_cut_by_their_context() {
        check_items(&[(3, 0, 1)], None, &[[0, 3, 0, 1, 0, 1, 0, 0]]);
        check_items(&[(3, 255, 1)], None, &[[0, 3, 0, 256, 0, 1, 0, 0]]);
        check_items(
            &[(3, 256, 1), (0, 9, 1), (1, 511, 1)],
            None,
            &[
                [0, 3, 0, 256, 0, 2, 0, 0],
                [0, 3, 256, 257, 1, 2, 0, 0],
                [1, 0, 0, 10, 0, 1, 2, 1],
                [2, 1, 0, 256, 0, 2, 2, 1],
                [2, 1, 256, 512, 1, 2, 2, 1],
            ],
        );
    }

    #[test]
    fn a_window_cuts_what_is_not_seen() {
        check_items(&[(0, 999, 1)], Some(300), &[[0, 0, 700, 956, 0, 2, 0, 0], [0, 0, 956, 1000, 1, 2, 0, 0]]);
        check_items(&[(0, 99, 1)], Some(300), &[[0, 0, 0, 100, 0, 1, 0, 0]]);
    }

    #[test]
    fn longer_rows_become_tiles_with_the_longest_context_first() {
        let mut plan = AttentionPlan::default();
        plan.plan(&step(&[(0, 0, 40), (7, 5, 1), (2, 100, 2)]), &cuts(None));
        let found: Vec<[i32; 4]> =
            plan.tiles.iter().map(|t| [t.first_token, t.num_tokens, t.first_position, t.slot]).collect();
        assert_eq!(found, [[41, 2, 100, 2], [32, 8, 32, 0], [0, 32, 0, 0]]);
        assert_eq!(plan.items.len(), 1);
    }

    #[test]
    fn single_tokens_are_tiles_where_the_gpu_is_full_without_splits() {
        #[track_caller]
        fn check(rows: impl Iterator<Item = u32>, arithmetic: Arithmetic, expected: bool) {
            let rows: Vec<_> = rows.enumerate().map(|(slot, len)| (slot as u32, len - 1, 1)).collect();
            let mut plan = AttentionPlan::default();
            plan.plan(&step(&rows), &Cuts { arithmetic, ..cuts(None) });
            let found = [plan.items.is_empty(), plan.tiles.len() == rows.len()];
            assert_eq!(found, [expected; 2]);
        }
        check((0..128).map(|_| 768), Arithmetic::Fastest, true);
        check((0..127).map(|_| 768), Arithmetic::Fastest, false);
        check((0..128).map(|_| 767), Arithmetic::Fastest, false);
        check((0..128).map(|i| if i == 0 { 20_000 } else { 768 }), Arithmetic::Fastest, false);
        check((0..2).map(|_| 5), Arithmetic::BatchInvariant, true);
    }

    #[test]
    fn no_context_has_more_splits_than_the_maximum() {
        for len in (1_u32..200_000).step_by(37) {
            assert!(len.div_ceil(split_tokens(len)) <= max_splits(len), "{len}");
        }
        assert_eq!([1, 256, 257, 4096, 200_000].map(max_splits), [1, 1, 2, 16, 16]);
    }
}
