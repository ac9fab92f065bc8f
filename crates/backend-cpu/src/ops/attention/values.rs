//! The values of a chunk, weighted. Knows positions and blocks, not where weights come from.

use core::ops::Range;

use super::runs::{block_runs, intersection};
use super::{CHUNK, Context, MAX_QUERIES, MAX_QUERY_ELEMENTS, Queries};
use crate::kv::half_of_value;
use crate::simd::{Matrix, MatrixMut, Operand, Start, TileProduct, tile_product};

/// Blocks whose values are added at a time.
const MAX_PANELS: usize = 16;

/// What weighted values need.
pub(super) struct ValueScratch<S: Operand> {
    /// `[queries, head_dim]`: the sums of a chunk.
    sums: [f32; MAX_QUERY_ELEMENTS],
    /// The weights as values take them.
    weights: [S::X; MAX_QUERIES * CHUNK],
}

impl<S: Operand> ValueScratch<S> {
    pub(super) fn new() -> Self {
        Self { sums: [0.0; _], weights: [S::X::default(); _] }
    }
}

impl<S: Operand> Context<'_, S> {
    /// The weighted values of `positions`, which lie in one chunk, in ascending order: `[queries, head_dim]`.
    ///
    /// A query reads nothing that it does not see. Where others see more, it may read that with a weight of zero if it is
    /// finite: this changes no bit of a sum, and all queries are summed together. Otherwise each takes its own.
    pub(super) fn sum_values<'a>(
        &self,
        queries: &Queries<'_>,
        positions: &Range<usize>,
        weights: &mut [f32],
        scratch: &'a mut ValueScratch<S>,
    ) -> Matrix<'a> {
        let (num_queries, head_dim) = (queries.visible.len(), self.head_dim());
        let mut out = MatrixMut::new(&mut scratch.sums, num_queries, head_dim, head_dim);
        for query in 0..num_queries {
            out.row_mut(query).fill(0.0);
        }
        let mut add = |members: Range<usize>, positions: Range<usize>, weights: &[f32]| {
            let weights = Matrix::new(&weights[members.start * CHUNK..], members.len(), CHUNK, CHUNK);
            let out = out.part(members, 0..head_dim);
            self.add_values(queries, &Weighted { positions, weights }, &mut scratch.weights, out);
        };
        let common = queries.visible.iter().fold(positions.clone(), |common, visible| intersection(&common, visible));
        let common = if common.is_empty() { positions.end..positions.end } else { common };
        if self.are_finite(queries, positions.start..common.start)
            && self.are_finite(queries, common.end..positions.end)
        {
            for (query, visible) in queries.visible.iter().enumerate() {
                let (row, seen) = (&mut weights[query * CHUNK..][..CHUNK], intersection(visible, positions));
                for unseen in
                    [positions.start..seen.start.min(positions.end), seen.end.max(positions.start)..positions.end]
                {
                    let first = unseen.start % CHUNK;
                    row[first..first + unseen.len()].fill(0.0);
                }
            }
            add(0..num_queries, positions.clone(), weights);
        } else {
            for (query, visible) in queries.visible.iter().enumerate() {
                add(query..query + 1, intersection(visible, positions), weights);
            }
        }
        Matrix::new(&scratch.sums, num_queries, head_dim, head_dim)
    }

    /// Whether the values of `positions` are finite.
    fn are_finite(&self, queries: &Queries<'_>, positions: Range<usize>) -> bool {
        let head_dim = self.head_dim();
        block_runs(positions, self.word_layout.block_size).all(|run| {
            let values = self.head(queries, run.block_index).values;
            let words = run.slots.start / S::ELEMENTS * head_dim..run.slots.end.div_ceil(S::ELEMENTS) * head_dim;
            let words = words.start..words.end.min(values.len());
            values[words].iter().fold(true, |all, word| all & S::is_finite(*word))
        })
    }

    /// Adds weighted values to `out`, `[queries, head_dim]`.
    fn add_values(&self, queries: &Queries<'_>, weighted: &Weighted<'_>, scratch: &mut [S::X], mut out: MatrixMut<'_>) {
        let (block_size, head_dim) = (self.word_layout.block_size, self.head_dim());
        // Words follow one another from block to block if these hold whole words.
        let stretch = if block_size.is_multiple_of(S::ELEMENTS) { MAX_PANELS * block_size } else { block_size };
        for stretch in block_runs(weighted.positions.clone(), stretch) {
            let end = stretch.first_position + stretch.slots.len();
            let mut next = stretch.first_position;
            if !stretch.slots.start.is_multiple_of(S::ELEMENTS) {
                self.add_lone_values(queries, next, weighted.of(next..next + 1), out.reborrow());
                next += 1;
            }
            let whole = next..next + (end - next) / S::ELEMENTS * S::ELEMENTS;
            if !whole.is_empty() {
                let mut panels: [&[S::Word]; MAX_PANELS] = [&[]; _];
                let mut num_panels = 0;
                for run in block_runs(whole.clone(), block_size) {
                    let words = run.slots.start / S::ELEMENTS * head_dim..run.slots.end / S::ELEMENTS * head_dim;
                    panels[num_panels] = &self.head(queries, run.block_index).values[words];
                    num_panels += 1;
                }
                let x = S::take(self.path, weighted.of(whole.clone()), scratch);
                let (panels, panel_stride, out) = (&panels[..num_panels], head_dim, out.reborrow());
                tile_product(self.path, TileProduct::<S> { x, panels, panel_stride, start: Start::Out, out });
            }
            if whole.end < end {
                self.add_lone_values(queries, whole.end, weighted.of(whole.end..end), out.reborrow());
            }
        }
    }

    /// Adds the weighted values of one position alone to `out`, `[queries, head_dim]`: whatever its words hold besides is
    /// not seen. `weights` are `[queries, 1]`.
    fn add_lone_values(&self, queries: &Queries<'_>, position: usize, weights: Matrix<'_>, mut out: MatrixMut<'_>) {
        const SOME: usize = 64;
        let block_size = self.word_layout.block_size;
        let values = self.head(queries, position / block_size).values;
        let mut words = [S::Word::default(); SOME];
        let mut scratch = [S::X::default(); MAX_QUERIES * 2];
        let x = S::take(self.path, weights, &mut scratch);
        for first in (0..out.cols()).step_by(SOME) {
            let cols = first..out.cols().min(first + SOME);
            let words = &mut words[..cols.len()];
            for (col, word) in cols.clone().zip(&mut *words) {
                let (index, nth) = half_of_value(&self.word_layout, position % block_size, col);
                *word = S::alone(values[index], nth);
            }
            let out = out.part(0..weights.rows(), cols);
            let (panels, panel_stride) = (&[&*words], words.len());
            tile_product(self.path, TileProduct::<S> { x, panels, panel_stride, start: Start::Out, out });
        }
    }
}

/// Positions of a chunk, and what they weigh.
struct Weighted<'a> {
    positions: Range<usize>,
    /// `[queries, positions of the chunk]`
    weights: Matrix<'a>,
}

impl<'a> Weighted<'a> {
    /// The weights of some of the positions.
    fn of(&self, positions: Range<usize>) -> Matrix<'a> {
        let first = positions.start % CHUNK;
        self.weights.some_cols(first..first + positions.len())
    }
}
