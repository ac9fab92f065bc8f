//! Causal attention over paged keys and values, as a streaming softmax (Milakov and Gimelshein, 2018; Dao et al., 2022).
//! Knows tiles of queries, block tables and positions.
//!
//! The context is taken in chunks of 256 positions that begin at multiples of 256, whatever the block size. For each chunk
//! a query's scores are formed, its running maximum and sum updated, and its weighted values added in ascending order of
//! position. A query's result therefore depends on its own context alone. Several queries form a tile so that keys and
//! values are read once for all of them: consecutive tokens of one row for a prefill, the heads that share a key-value
//! head for a decode.

mod runs;
mod values;

use core::ops::Range;

use tensor_backend::{KvLayout, PagedAttention};

use self::runs::{block_runs, hull, intersection};
use self::values::ValueScratch;
use crate::CpuBackend;
use crate::buffer::Buffer;
use crate::float::{Byte, Half, Single};
use crate::inputs::{Inputs, MAX_TILE_TOKENS, TokenTile};
use crate::kv::{HeadBlock, KvValues, MAX_HEAD_DIM, head_block, pair_layout, scale_layout};
use crate::pairs::Pairs;
use crate::pool::{Cores, Split};
use crate::simd::{
    COLUMN, Column, ColumnsProduct, Matrix, MatrixMut, Operand, Path, Softmax, Start, columns_product, scale_and_add,
    scale_row,
};

/// Positions of a chunk.
const CHUNK: usize = 256;

/// Queries of a tile.
const MAX_QUERIES: usize = MAX_TILE_TOKENS;

/// Elements of all queries that are taken at a time: of heads wider than 256, fewer queries than [`MAX_QUERIES`].
const MAX_QUERY_ELEMENTS: usize = MAX_HEAD_DIM;

/// Words of each key that are brought together at a time, where keys of consecutive positions do not lie so.
const GATHERED: usize = 256;

/// Multiply-adds that are worth a thread.
const GRAIN: usize = 1 << 17;

pub(crate) fn paged_attention(cores: &Cores, op: PagedAttention<'_, CpuBackend>) {
    match &op.kv.values {
        KvValues::F32(values) => attend::<Single>(cores, op, Stored { values, scales: None }),
        KvValues::F16(values) => attend::<Half>(cores, op, Stored { values, scales: None }),
        KvValues::BF16(values) => attend::<Pairs>(cores, op, Stored { values, scales: None }),
        KvValues::Int8 { quants, scales } => {
            attend::<Byte>(cores, op, Stored { values: quants, scales: Some(scales) });
        }
    }
}

/// The keys and values of the pool.
#[derive(Clone, Copy)]
struct Stored<'a, W> {
    values: &'a [W],
    /// Of each head of a token, where its elements do not stand for themselves.
    scales: Option<&'a [f32]>,
}

fn attend<S: Operand>(cores: &Cores, op: PagedAttention<'_, CpuBackend>, stored: Stored<'_, S::Word>) {
    let PagedAttention { inputs, qkv, kv, layer, num_heads, scale, sliding_window, out, rows } = op;
    let layout = kv.layout();
    assert_eq!(rows, inputs.step().num_tokens());
    assert!(num_heads.is_multiple_of(layout.num_kv_heads));
    assert!(scale > 0.0, "the largest score stays the largest when it is scaled");
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
    let word_layout = if S::ELEMENTS == 1 { *layout } else { pair_layout(layout) };
    let context = Context::<S> { path: cores.path, inputs, qkv, word_layout, stored, layer, scale, sliding_window };
    cores.pool.run(Tasks { tiles, kv_heads: 0..layout.num_kv_heads, group_cols, out }, grain, |mut work| {
        let mut scratch = Scratch::<S>::new();
        let first_token = work.tiles.first().map_or(0, |tile| tile.tokens.start);
        for tile in work.tiles {
            for (index, kv_head) in work.kv_heads.clone().enumerate() {
                let rows = tile.tokens.start - first_token..tile.tokens.end - first_token;
                let out = work.out.part(rows, index * group_cols..(index + 1) * group_cols);
                context.attend_tile(tile, kv_head, &mut scratch, out);
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
struct Context<'a, S: Operand> {
    path: Path,
    inputs: &'a Inputs,
    qkv: &'a Buffer,
    /// The pool's, with as many elements in a head as it has words.
    word_layout: KvLayout,
    stored: Stored<'a, S::Word>,
    layer: usize,
    scale: f32,
    sliding_window: Option<usize>,
}

/// What is kept from tile to tile for its room alone.
struct Scratch<S: Operand> {
    /// Queries as scores take them.
    queries: [S::X; MAX_QUERY_ELEMENTS],
    scores: ScoreScratch<S>,
    values: ValueScratch<S>,
}

/// What scores need.
struct ScoreScratch<S: Operand> {
    /// `[queries][positions of a chunk]`
    scores: [f32; MAX_QUERIES * CHUNK],
    /// Keys of positions that do not lie together.
    keys: [S::Word; GATHERED * COLUMN],
}

impl<S: Operand> Scratch<S> {
    fn new() -> Self {
        Self {
            queries: [S::X::default(); _],
            scores: ScoreScratch { scores: [0.0; _], keys: [S::Word::default(); _] },
            values: ValueScratch::new(),
        }
    }
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

impl<S: Operand> Context<'_, S> {
    /// `out` is `[tokens of the tile, heads of the group * head_dim]`.
    fn attend_tile(&self, tile: &TokenTile, kv_head: usize, scratch: &mut Scratch<S>, mut out: MatrixMut<'_>) {
        let head_dim = self.head_dim();
        let most = MAX_QUERIES.min(MAX_QUERY_ELEMENTS / head_dim);
        let group = out.cols() / head_dim;
        let first_col = kv_head * out.cols();
        let table = self.inputs.table(tile.slot);
        let rows = self.qkv.rows(tile.tokens.clone());
        let num_tokens = tile.tokens.len();
        let visible: [_; MAX_QUERIES] = core::array::from_fn(|token| {
            let position = self.inputs.step().positions[tile.tokens.start + token.min(num_tokens - 1)] as usize;
            self.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window))..position + 1
        });
        if num_tokens > 1 {
            for head in 0..group {
                let q = Matrix::new(&rows[first_col + head * head_dim..], num_tokens, head_dim, self.qkv.cols());
                for first in (0..num_tokens).step_by(most) {
                    let tokens = first..num_tokens.min(first + most);
                    let out = out.part(tokens.clone(), head * head_dim..(head + 1) * head_dim);
                    let (q, visible) = (q.some_rows(tokens.clone()), &visible[tokens]);
                    self.attend_queries(&Queries { table, kv_head, q, visible }, scratch, out);
                }
            }
        } else {
            let heads = rows[first_col..][..group * head_dim].chunks(most * head_dim);
            for (q, out) in heads.zip(out.row_mut(0).chunks_mut(most * head_dim)) {
                let num_heads = q.len() / head_dim;
                let q = Matrix::new(q, num_heads, head_dim, head_dim);
                let out = MatrixMut::new(out, num_heads, head_dim, head_dim);
                let visible = &visible[..num_heads];
                self.attend_queries(&Queries { table, kv_head, q, visible }, scratch, out);
            }
        }
    }

    fn head_dim(&self) -> usize {
        self.word_layout.head_dim * S::ELEMENTS
    }

    /// `out` is `[queries, head_dim]`.
    fn attend_queries(&self, queries: &Queries<'_>, scratch: &mut Scratch<S>, mut out: MatrixMut<'_>) {
        let num_queries = queries.visible.len();
        let Scratch { queries: q, scores, values } = scratch;
        let q = S::take(self.path, queries.q, q);
        let mut softmax = [Softmax::EMPTY; MAX_QUERIES];
        for query in 0..num_queries {
            out.row_mut(query).fill(0.0);
        }
        let all = hull(queries.visible);
        for chunk in all.start / CHUNK..all.end.div_ceil(CHUNK) {
            let chunk = chunk * CHUNK..(chunk + 1) * CHUNK;
            let hull = intersection(&all, &chunk);
            self.form_scores(queries, q, &hull, scores);
            let scores = &mut scores.scores;
            self.scale_by(queries, &hull, scores, |scales| scales.keys);
            let mut shrinks = [1.0; MAX_QUERIES];
            for (query, visible) in queries.visible.iter().enumerate() {
                let seen = intersection(visible, &chunk);
                if !seen.is_empty() {
                    let scores = &mut scores[query * CHUNK..][seen.start - chunk.start..seen.end - chunk.start];
                    shrinks[query] = softmax[query].take(self.path, scores, self.scale);
                }
            }
            self.scale_by(queries, &hull, scores, |scales| scales.values);
            let sums = self.sum_values(queries, &hull, scores, values);
            for (query, visible) in queries.visible.iter().enumerate() {
                if !intersection(visible, &chunk).is_empty() {
                    scale_and_add(self.path, out.row_mut(query), shrinks[query], sums.row(query));
                }
            }
        }
        for (query, softmax) in softmax[..num_queries].iter().enumerate() {
            scale_row(self.path, out.row_mut(query), 1.0 / softmax.sum);
        }
    }

    /// Dot products of all queries with the keys of `positions`, which lie in one chunk.
    fn form_scores(
        &self,
        queries: &Queries<'_>,
        q: Matrix<'_, S::X>,
        positions: &Range<usize>,
        scratch: &mut ScoreScratch<S>,
    ) {
        let ScoreScratch { scores, keys: gathered } = scratch;
        let block_size = self.word_layout.block_size;
        let mut product = |x: Matrix<'_, S::X>, columns: &[Column<'_, S::Word>], panel_stride: usize, start: Start| {
            let out = MatrixMut::new(scores, queries.visible.len(), CHUNK, CHUNK);
            columns_product(self.path, ColumnsProduct::<S> { x, columns, panel_stride, start, out });
        };
        // The scores of positions that nobody sees are never read.
        let firsts = (positions.start / COLUMN * COLUMN..positions.end).step_by(COLUMN);
        if block_size.is_multiple_of(COLUMN) {
            let mut columns = [Column { panel: &[], to: 0 }; CHUNK / COLUMN];
            let mut num_columns = 0;
            for first in firsts {
                let keys = self.head(queries, first / block_size).keys;
                columns[num_columns] = Column { panel: &keys[first % block_size..], to: first % CHUNK };
                num_columns += 1;
            }
            return product(q, &columns[..num_columns], block_size, Start::Zero);
        }
        let (num_words, x_per_word) = (self.word_layout.head_dim, S::x_per_word(self.path));
        for first in firsts {
            for words in (0..num_words).step_by(GATHERED).map(|word| word..num_words.min(word + GATHERED)) {
                let panel = &mut gathered[..words.len() * COLUMN];
                for run in block_runs(intersection(positions, &(first..first + COLUMN)), block_size) {
                    let keys = &self.head(queries, run.block_index).keys[words.start * block_size..];
                    for (keys, panel) in keys.chunks_exact(block_size).zip(panel.chunks_exact_mut(COLUMN)) {
                        panel[run.first_position - first..][..run.slots.len()]
                            .copy_from_slice(&keys[run.slots.clone()]);
                    }
                }
                let x = q.some_cols(words.start * x_per_word..words.end * x_per_word);
                let start = if words.start == 0 { Start::Zero } else { Start::Out };
                product(x, &[Column { panel, to: first % CHUNK }], COLUMN, start);
            }
        }
    }

    /// The keys and values that the queries read in a block of their table.
    fn head(&self, queries: &Queries<'_>, block_index: usize) -> HeadBlock<'_, S::Word> {
        let block = queries.table[block_index] as usize;
        head_block(&self.word_layout, self.stored.values, self.layer, block, queries.kv_head)
    }

    /// Multiplies what is by position with the scales of the keys, or of the values, where there are any. A scale is a factor
    /// of all products with a head's elements, so that these need not know it.
    fn scale_by(
        &self,
        queries: &Queries<'_>,
        positions: &Range<usize>,
        by_position: &mut [f32],
        of: impl Fn(HeadBlock<'_, f32>) -> &[f32],
    ) {
        let Some(scales) = self.stored.scales else { return };
        let layout = scale_layout(&self.word_layout);
        for run in block_runs(positions.clone(), layout.block_size) {
            let block = queries.table[run.block_index] as usize;
            let scales = &of(head_block(&layout, scales, self.layer, block, queries.kv_head))[run.slots.clone()];
            for row in by_position.chunks_exact_mut(CHUNK).take(queries.visible.len()) {
                let row = &mut row[run.first_position % CHUNK..];
                row.iter_mut().zip(scales).for_each(|(value, scale)| *value *= scale);
            }
        }
    }
}
