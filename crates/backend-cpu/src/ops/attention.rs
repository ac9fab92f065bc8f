//! Causal attention over paged keys and values, as a streaming softmax (Milakov and Gimelshein, 2018; Dao et al., 2022).
//! Knows tiles of queries, block tables and positions.
//!
//! The context is taken in chunks of 128 positions that begin at multiples of 128, whatever the block size. For each chunk
//! a query's scores are formed, its running maximum and sum updated, and its weighted values added in ascending order of
//! position. A query's result therefore depends on its own context alone. Several queries form a tile so that keys and
//! values are read once for all of them: consecutive tokens of one row for a prefill, the heads that share a key-value
//! head for a decode.

use core::ops::Range;

use tensor_backend::PagedAttention;

use crate::CpuBackend;
use crate::buffer::Buffer;
use crate::float::{Brain, Byte, Half, Single, StoredNumber};
use crate::inputs::{Inputs, MAX_TILE_TOKENS, TokenTile};
use crate::kv::{HeadBlock, Kv, KvValues, head_block, scale_layout};
use crate::pool::{Cores, Split};
use crate::simd::{
    COLUMN, Column, ColumnsProduct, Matrix, MatrixMut, Path, Softmax, Start, TileProduct, VectorNumber,
    columns_product, softmax_chunk, tile_product,
};

/// Positions of a chunk.
const CHUNK: usize = 128;

/// Between the scores of one query and the next. Scores are formed for whole columns; what lies beyond the last position is
/// not read.
const SCORE_STRIDE: usize = CHUNK + COLUMN;

/// Queries of a tile.
const MAX_QUERIES: usize = MAX_TILE_TOKENS;

/// Multiply-adds that are worth a thread.
const GRAIN: usize = 1 << 17;

pub(crate) fn paged_attention(cores: &Cores, op: PagedAttention<'_, CpuBackend>) {
    match &op.kv.values {
        KvValues::F32(values) => attend::<Single>(cores, op, Stored { values, scales: None }),
        KvValues::F16(values) => attend::<Half>(cores, op, Stored { values, scales: None }),
        KvValues::BF16(values) => attend::<Brain>(cores, op, Stored { values, scales: None }),
        KvValues::Int8 { quants, scales } => {
            attend::<Byte>(cores, op, Stored { values: quants, scales: Some(scales) });
        }
    }
}

/// The keys and values of the pool.
#[derive(Clone, Copy)]
struct Stored<'a, T> {
    values: &'a [T],
    /// Of each head of a token, where its elements do not stand for themselves.
    scales: Option<&'a [f32]>,
}

fn attend<S: VectorNumber>(cores: &Cores, op: PagedAttention<'_, CpuBackend>, stored: Stored<'_, S::Bits>) {
    let PagedAttention { inputs, qkv, kv, layer, num_heads, scale, sliding_window, out, rows } = op;
    let layout = kv.layout();
    assert_eq!(rows, inputs.step().num_tokens());
    assert!(num_heads.is_multiple_of(layout.num_kv_heads));
    let cols = num_heads * layout.head_dim;
    assert_eq!(out.cols(), cols);
    assert_eq!(qkv.cols(), cols + 2 * layout.num_kv_heads * layout.head_dim);

    let context: usize = inputs.step().positions.iter().map(|&position| position as usize + 1).sum();
    let tiles = inputs.tiles();
    let num_tasks = tiles.len() * layout.num_kv_heads;
    let products_per_task = 2 * context * cols / num_tasks.max(1);
    let grain = (GRAIN / products_per_task.max(1)).max(num_tasks.div_ceil(cores.pool.num_threads() * 8));
    let grain = if tiles.len() > 1 { grain.next_multiple_of(layout.num_kv_heads) } else { grain };

    let group_cols = cols / layout.num_kv_heads;
    let out = MatrixMut::new(out.rows_mut(0..rows), rows, cols, cols);
    let context = Context::<S> { path: cores.path, inputs, qkv, kv, stored, layer, scale, sliding_window };
    cores.pool.run(Tasks { tiles, kv_heads: 0..layout.num_kv_heads, group_cols, out }, grain, |mut work| {
        let first_token = work.tiles.first().map_or(0, |tile| tile.tokens.start);
        for tile in work.tiles {
            for (index, kv_head) in work.kv_heads.clone().enumerate() {
                let rows = tile.tokens.start - first_token..tile.tokens.end - first_token;
                let out = work.out.part(rows, index * group_cols..(index + 1) * group_cols);
                context.attend_tile(tile, kv_head, out);
            }
        }
    });
}

/// Tiles and key-value heads, and their part of the output.
struct Tasks<'a> {
    tiles: &'a [TokenTile],
    kv_heads: Range<usize>,
    /// Output columns of a key-value head.
    group_cols: usize,
    out: MatrixMut<'a>,
}

impl Split for Tasks<'_> {
    fn len(&self) -> usize {
        self.tiles.len() * self.kv_heads.len()
    }

    /// Between tiles if there are several, else between heads.
    fn split_at(self, mid: usize) -> (Self, Self) {
        let Self { tiles, kv_heads, group_cols, out } = self;
        if tiles.len() > 1 {
            assert!(mid.is_multiple_of(kv_heads.len()), "several tiles are divided into whole ones");
            let (above, below) = tiles.split_at(mid / kv_heads.len());
            let (top, bottom) = out.split_rows(below[0].tokens.start - above[0].tokens.start);
            let above = Self { tiles: above, kv_heads: kv_heads.clone(), group_cols, out: top };
            (above, Self { tiles: below, kv_heads, group_cols, out: bottom })
        } else {
            let (left, right) = out.split_cols(mid * group_cols);
            let mid = kv_heads.start + mid;
            let first = Self { tiles, kv_heads: kv_heads.start..mid, group_cols, out: left };
            (first, Self { tiles, kv_heads: mid..kv_heads.end, group_cols, out: right })
        }
    }
}

/// What all tiles share.
struct Context<'a, S: StoredNumber> {
    path: Path,
    inputs: &'a Inputs,
    qkv: &'a Buffer,
    kv: &'a Kv,
    stored: Stored<'a, S::Bits>,
    layer: usize,
    scale: f32,
    sliding_window: Option<usize>,
}

/// Queries that read the same keys and values.
struct Queries<'a> {
    table: &'a [u32],
    kv_head: usize,
    /// `[queries, head_dim]`
    q: Matrix<'a>,
    /// Positions that each query sees.
    visible: &'a [Range<usize>],
}

impl<S: VectorNumber> Context<'_, S> {
    /// `out` is `[tokens of the tile, heads of the group * head_dim]`.
    fn attend_tile(&self, tile: &TokenTile, kv_head: usize, mut out: MatrixMut<'_>) {
        let head_dim = self.kv.layout().head_dim;
        let group = out.cols() / head_dim;
        let first_col = kv_head * out.cols();
        let table = self.inputs.table(tile.slot);
        let rows = self.qkv.rows(tile.tokens.clone());
        let num_tokens = tile.tokens.len();
        let visible = |token: usize| {
            let position = self.inputs.step().positions[tile.tokens.start + token] as usize;
            self.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
        };
        if num_tokens > 1 {
            let visible: [_; MAX_QUERIES] = core::array::from_fn(|i| visible(i.min(num_tokens - 1)));
            let visible = &visible[..num_tokens];
            for head in 0..group {
                let q = Matrix::new(&rows[first_col + head * head_dim..], num_tokens, head_dim, self.qkv.cols());
                let out = out.part(0..num_tokens, head * head_dim..(head + 1) * head_dim);
                self.attend_queries(&Queries { table, kv_head, q, visible }, out);
            }
        } else {
            let visible: [_; MAX_QUERIES] = core::array::from_fn(|_| visible(0));
            let heads = rows[first_col..][..group * head_dim].chunks(MAX_QUERIES * head_dim);
            for (q, out) in heads.zip(out.row_mut(0).chunks_mut(MAX_QUERIES * head_dim)) {
                let num_heads = q.len() / head_dim;
                let q = Matrix::new(q, num_heads, head_dim, head_dim);
                let out = MatrixMut::new(out, num_heads, head_dim, head_dim);
                self.attend_queries(&Queries { table, kv_head, q, visible: &visible[..num_heads] }, out);
            }
        }
    }

    /// `out` is `[queries, head_dim]`.
    fn attend_queries(&self, queries: &Queries<'_>, mut out: MatrixMut<'_>) {
        let num_queries = queries.visible.len();
        let mut softmax = [Softmax::EMPTY; MAX_QUERIES];
        let mut scores = [0.0; MAX_QUERIES * SCORE_STRIDE];
        for query in 0..num_queries {
            out.row_mut(query).fill(0.0);
        }
        let all = hull(queries.visible);
        for chunk in all.start / CHUNK..all.end.div_ceil(CHUNK) {
            let chunk = chunk * CHUNK..(chunk + 1) * CHUNK;
            self.form_scores(queries, &chunk, &mut scores);
            self.scale_by(queries, &chunk, &mut scores, |scales| scales.keys);
            for (query, visible) in queries.visible.iter().enumerate() {
                let seen = intersection(visible, &chunk);
                if seen.is_empty() {
                    continue;
                }
                let scores = &mut scores[query * SCORE_STRIDE..][seen.start - chunk.start..seen.end - chunk.start];
                let shrink = softmax_chunk(self.path, scores, self.scale, &mut softmax[query]);
                if shrink != 1.0 {
                    out.row_mut(query).iter_mut().for_each(|sum| *sum *= shrink);
                }
            }
            self.scale_by(queries, &chunk, &mut scores, |scales| scales.values);
            self.add_values(queries, &chunk, &scores, &mut out);
        }
        for (query, softmax) in softmax[..num_queries].iter().enumerate() {
            let inverse = 1.0 / softmax.sum;
            out.row_mut(query).iter_mut().for_each(|value| *value *= inverse);
        }
    }

    /// Dot products of all queries with all keys of the chunk that any of them sees.
    fn form_scores(&self, queries: &Queries<'_>, chunk: &Range<usize>, scores: &mut [f32]) {
        let layout = self.kv.layout();
        let num_queries = queries.visible.len();
        let panel_stride = layout.block_size;
        let mut columns = [Column::<S::Bits> { panel: &[], to: 0 }; SCORE_STRIDE / COLUMN];
        let mut num_columns = 0;
        for run in block_runs(intersection(&hull(queries.visible), chunk), layout.block_size) {
            let block = queries.table[run.block_index] as usize;
            let head = head_block(layout, self.stored.values, self.layer, block, queries.kv_head);
            // To whole columns where the block has them: the scores of positions that nobody sees are never read.
            let width = run.slots.len().next_multiple_of(COLUMN).min(layout.block_size - run.slots.start);
            let (panel, to) = (&head.keys[run.slots.start..], run.first_position - chunk.start);
            let whole = width / COLUMN * COLUMN;
            for at in (0..whole).step_by(COLUMN) {
                columns[num_columns] = Column { panel: &panel[at..], to: to + at };
                num_columns += 1;
            }
            if whole < width {
                let out = MatrixMut::new(&mut scores[to + whole..], num_queries, width - whole, SCORE_STRIDE);
                let panel = &panel[whole..];
                tile_product(
                    self.path,
                    TileProduct::<S> { x: queries.q, panel, panel_stride, start: Start::Zero, out },
                );
            }
        }
        let out = MatrixMut::new(scores, num_queries, SCORE_STRIDE, SCORE_STRIDE);
        let columns = &columns[..num_columns];
        columns_product(self.path, ColumnsProduct::<S> { x: queries.q, columns, panel_stride, out });
    }

    /// Multiplies what is by position with the scales of the keys, or of the values, where there are any. A scale is a factor
    /// of all products with a head's elements, so that these need not know it.
    fn scale_by(
        &self,
        queries: &Queries<'_>,
        chunk: &Range<usize>,
        by_position: &mut [f32],
        of: impl Fn(HeadBlock<'_, f32>) -> &[f32],
    ) {
        let Some(scales) = self.stored.scales else { return };
        let layout = scale_layout(self.kv.layout());
        for run in block_runs(intersection(&hull(queries.visible), chunk), layout.block_size) {
            let block = queries.table[run.block_index] as usize;
            let scales = &of(head_block(&layout, scales, self.layer, block, queries.kv_head))[run.slots.clone()];
            for row in by_position.chunks_exact_mut(SCORE_STRIDE).take(queries.visible.len()) {
                let row = &mut row[run.first_position - chunk.start..];
                row.iter_mut().zip(scales).for_each(|(value, scale)| *value *= scale);
            }
        }
    }

    /// Adds the weighted values of the chunk: together where all queries see a position, else query by query, so that a
    /// query reads nothing that it does not see. The positions of each query ascend.
    fn add_values(&self, queries: &Queries<'_>, chunk: &Range<usize>, weights: &[f32], out: &mut MatrixMut<'_>) {
        let layout = self.kv.layout();
        let head_dim = layout.head_dim;
        let mut add = |members: Range<usize>, positions: Range<usize>| {
            for run in block_runs(positions, layout.block_size) {
                let block = queries.table[run.block_index] as usize;
                let head = head_block(layout, self.stored.values, self.layer, block, queries.kv_head);
                let weights = &weights[members.start * SCORE_STRIDE + run.first_position - chunk.start..];
                let x = Matrix::new(weights, members.len(), run.slots.len(), SCORE_STRIDE);
                let (panel, panel_stride) = (&head.values[run.slots.start * head_dim..], head_dim);
                let out = out.part(members.clone(), 0..head_dim);
                tile_product(self.path, TileProduct::<S> { x, panel, panel_stride, start: Start::Out, out });
            }
        };
        let mut common = queries.visible.iter().fold(chunk.clone(), |common, visible| intersection(&common, visible));
        if common.is_empty() {
            common = chunk.end..chunk.end;
        }
        for (query, visible) in queries.visible.iter().enumerate() {
            add(query..query + 1, visible.start.max(chunk.start)..visible.end.min(common.start));
        }
        add(0..queries.visible.len(), common.clone());
        for (query, visible) in queries.visible.iter().enumerate() {
            add(query..query + 1, visible.start.max(common.end)..visible.end.min(chunk.end));
        }
    }
}

/// Consecutive positions inside of one block.
struct BlockRun {
    /// Index into the block table.
    block_index: usize,
    /// Positions inside of the block.
    slots: Range<usize>,
    /// Position in the context of the first of them.
    first_position: usize,
}

fn block_runs(positions: Range<usize>, block_size: usize) -> impl Iterator<Item = BlockRun> {
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
fn intersection(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    a.start.max(b.start)..a.end.min(b.end)
}

/// The smallest range that holds all `ranges`.
fn hull(ranges: &[Range<usize>]) -> Range<usize> {
    let start = ranges.iter().map(|range| range.start).min().unwrap_or(0);
    start..ranges.iter().map(|range| range.end).max().unwrap_or(start)
}
