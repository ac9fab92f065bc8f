//! The KV pool. Knows its layout, not which block belongs to whom.

use serving_types::BlockCopy;
use tensor_backend::{Element, KvElement, KvLayout};

use crate::CpuError;
use crate::float::{Half, Single, StoredFloat};
use crate::head_scale::HeadScale;
use crate::memory::{TakenAhead, bytes_of, zeroed};
use crate::pool::Pool;
use crate::simd::{Path, round_to_pairs, round_to_singles};

/// Elements of the widest head that attention has room for.
pub(crate) const MAX_HEAD_DIM: usize = 3072;

/// Keys and values of all layers: `[layers][key, value][blocks]`. A block of keys is `[kv heads][head_dim][block_size]`, so
/// that one vector holds an element of consecutive positions; a block of values is `[kv heads][block_size][head_dim]`.
///
/// bfloat16 lies in words of two: those of keys hold consecutive elements of a head, those of values consecutive positions,
/// `[kv heads][block_size / 2][head_dim]`. The last position of a block of an odd size, which has no other beside it, takes
/// the words that are left as keys would. The scales of signed bytes are a pool of their own, of heads with one element.
#[derive(Debug)]
pub struct Kv {
    layout: KvLayout,
    /// Ends before the values do: fields are dropped in this order.
    taken_ahead: TakenAhead,
    pub(crate) values: KvValues,
}

#[derive(Debug)]
pub(crate) enum KvValues {
    F32(Vec<f32>),
    F16(Vec<u16>),
    BF16(Vec<u32>),
    Int8 { quants: Vec<i8>, scales: Vec<f32> },
}

impl KvValues {
    fn take_ahead(&self, layout: &KvLayout, pool: &Pool) -> TakenAhead {
        let (num_areas, num_blocks) = (2 * layout.num_layers, layout.num_blocks);
        match self {
            Self::F32(values) => TakenAhead::new(values, num_areas, num_blocks, pool),
            Self::F16(values) => TakenAhead::new(values, num_areas, num_blocks, pool),
            Self::BF16(pairs) => TakenAhead::new(pairs, num_areas, num_blocks, pool),
            // The scales are few.
            Self::Int8 { quants, .. } => TakenAhead::new(quants, num_areas, num_blocks, pool),
        }
    }
}

/// The keys and values of one head in one block, as [`Kv`] lays them out.
pub(crate) struct HeadBlock<'a, T> {
    pub(crate) keys: &'a [T],
    pub(crate) values: &'a [T],
}

impl Kv {
    pub(crate) fn new(layout: &KvLayout, pool: &Pool) -> Result<Self, CpuError> {
        const WHAT: &str = "the KV pool";
        let num_heads = 2 * layout.num_layers * layout.num_blocks * layout.block_size * layout.num_kv_heads;
        let len = num_heads * layout.head_dim;
        if layout.head_dim > MAX_HEAD_DIM {
            return Err(CpuError::HeadDim(layout.head_dim));
        }
        let values = match layout.element {
            KvElement::Float(Element::F32) => KvValues::F32(zeroed(len, 0.0, WHAT)?),
            KvElement::Float(Element::F16) => KvValues::F16(zeroed(len, 0, WHAT)?),
            KvElement::Float(Element::BF16) => {
                assert!(layout.head_dim.is_multiple_of(2), "rotation pairs the elements of a head");
                KvValues::BF16(zeroed(len / 2, 0, WHAT)?)
            }
            KvElement::Int8 => KvValues::Int8 { quants: zeroed(len, 0, WHAT)?, scales: zeroed(num_heads, 0.0, WHAT)? },
        };
        Ok(Self { layout: *layout, taken_ahead: values.take_ahead(layout, pool), values })
    }

    pub(crate) fn bytes(&self) -> u64 {
        match &self.values {
            KvValues::F32(values) => bytes_of(values),
            KvValues::F16(values) => bytes_of(values),
            KvValues::BF16(pairs) => bytes_of(pairs),
            KvValues::Int8 { quants, scales } => bytes_of(quants) + bytes_of(scales),
        }
    }

    pub(crate) fn layout(&self) -> &KvLayout {
        &self.layout
    }

    pub(crate) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        match &mut self.values {
            KvValues::F32(values) => copy_blocks(&self.layout, values, copies),
            KvValues::F16(values) => copy_blocks(&self.layout, values, copies),
            KvValues::BF16(pairs) => copy_blocks(&pair_layout(&self.layout), pairs, copies),
            KvValues::Int8 { quants, scales } => {
                copy_blocks(&self.layout, quants, copies);
                copy_blocks(&scale_layout(&self.layout), scales, copies);
            }
        }
    }

    /// Overwrites block `to` with block `from` of another pool with the same element and shape of block.
    pub(crate) fn copy_block_from(&mut self, other: &Self, from: usize, to: usize) {
        let (here, there) = (&self.layout, &other.layout);
        assert_eq!(KvLayout { num_blocks: here.num_blocks, ..*there }, *here, "blocks of both pools have one shape");
        self.taken_ahead.use_part(to);
        let (from, to) = ((there, from), (here, to));
        match (&mut self.values, &other.values) {
            (KvValues::F32(here), KvValues::F32(there)) => copy_block(here, there, from, to),
            (KvValues::F16(here), KvValues::F16(there)) => copy_block(here, there, from, to),
            (KvValues::BF16(here), KvValues::BF16(there)) => {
                let (their_layout, our_layout) = (pair_layout(from.0), pair_layout(to.0));
                copy_block(here, there, (&their_layout, from.1), (&our_layout, to.1));
            }
            (KvValues::Int8 { quants, scales }, KvValues::Int8 { quants: other_quants, scales: other_scales }) => {
                copy_block(quants, other_quants, from, to);
                let (there, here) = (scale_layout(there), scale_layout(here));
                copy_block(scales, other_scales, (&there, from.1), (&here, to.1));
            }
            _ => unreachable!("values are stored as the layout says"),
        }
    }

    /// Appends one token.
    pub(crate) fn append(&mut self, path: Path, token: &NewToken<'_>) {
        self.taken_ahead.use_part(token.place.block);
        match &mut self.values {
            KvValues::F32(pool) => append::<Single>(&self.layout, pool, token),
            KvValues::F16(pool) => append::<Half>(&self.layout, pool, token),
            KvValues::BF16(pool) => append_pairs(path, &pair_layout(&self.layout), pool, token),
            KvValues::Int8 { quants, scales } => append_int8(&self.layout, (quants, scales), token),
        }
    }
}

/// One token's keys and values of one layer, and where they go.
pub(crate) struct NewToken<'a> {
    pub(crate) place: TokenPlace,
    /// `[kv heads][head_dim]`
    pub(crate) keys: &'a [f32],
    /// `[kv heads][head_dim]`
    pub(crate) values: &'a [f32],
}

impl NewToken<'_> {
    /// The keys and values of each head.
    fn heads(&self, head_dim: usize) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.keys.chunks_exact(head_dim).zip(self.values.chunks_exact(head_dim))
    }
}

/// Where one token's keys and values of one layer lie.
#[derive(Clone, Copy)]
pub(crate) struct TokenPlace {
    pub(crate) layer: usize,
    pub(crate) block: usize,
    /// Position inside of the block.
    pub(crate) slot: usize,
}

/// Where the scales of signed bytes lie: heads of one element.
pub(crate) fn scale_layout(layout: &KvLayout) -> KvLayout {
    KvLayout { head_dim: 1, element: Element::F32.into(), ..*layout }
}

/// Where pairs of bfloat16 lie: as heads of half as many elements.
pub(crate) fn pair_layout(layout: &KvLayout) -> KvLayout {
    KvLayout { head_dim: layout.head_dim / 2, ..*layout }
}

/// Where a pair lies that holds a value of one position, among those of a head in one block, and which half of it that is.
/// `layout` is that of pairs.
pub(crate) fn half_of_value(layout: &KvLayout, slot: usize, col: usize) -> (usize, usize) {
    let (row, head_dim) = (slot / 2, 2 * layout.head_dim);
    if is_lone(slot, layout.block_size) {
        (row * head_dim + col / 2, col % 2)
    } else {
        (row * head_dim + col, slot % 2)
    }
}

/// Whether a position of a block has no other beside it.
fn is_lone(slot: usize, block_size: usize) -> bool {
    slot.is_multiple_of(2) && slot + 1 == block_size
}

/// Elements of the keys, or of the values, of one layer and block.
fn block_len(layout: &KvLayout) -> usize {
    layout.block_size * layout.num_kv_heads * layout.head_dim
}

/// First element of a block's keys; its values lie `num_blocks` blocks further.
fn keys_at(layout: &KvLayout, layer: usize, block: usize) -> usize {
    assert!(layer < layout.num_layers);
    assert!(block < layout.num_blocks, "block {block} of {}", layout.num_blocks);
    (layer * 2 * layout.num_blocks + block) * block_len(layout)
}

/// The part of a pool that holds one head in one block.
pub(crate) fn head_block<'a, T>(
    layout: &KvLayout,
    pool: &'a [T],
    layer: usize,
    block: usize,
    kv_head: usize,
) -> HeadBlock<'a, T> {
    let head_len = layout.block_size * layout.head_dim;
    let keys = keys_at(layout, layer, block) + kv_head * head_len;
    let values = keys + layout.num_blocks * block_len(layout);
    HeadBlock { keys: &pool[keys..][..head_len], values: &pool[values..][..head_len] }
}

/// The part of a pool that holds one head in one block: its keys and its values.
fn head_block_mut<'a, T>(
    layout: &KvLayout,
    pool: &'a mut [T],
    place: TokenPlace,
    kv_head: usize,
) -> (&'a mut [T], &'a mut [T]) {
    let head_len = layout.block_size * layout.head_dim;
    let keys = keys_at(layout, place.layer, place.block) + kv_head * head_len;
    let (keys, rest) = pool[keys..].split_at_mut(head_len);
    (keys, &mut rest[layout.num_blocks * block_len(layout) - head_len..][..head_len])
}

/// One head of a token: the elements of its keys, which lie apart, and of its values.
fn head_mut<'a, T>(
    layout: &KvLayout,
    pool: &'a mut [T],
    place: TokenPlace,
    kv_head: usize,
) -> (impl Iterator<Item = &'a mut T>, &'a mut [T]) {
    assert!(place.slot < layout.block_size);
    let (keys, values) = head_block_mut(layout, pool, place, kv_head);
    let keys = keys.iter_mut().skip(place.slot).step_by(layout.block_size);
    (keys, &mut values[place.slot * layout.head_dim..][..layout.head_dim])
}

fn append<S: StoredFloat>(layout: &KvLayout, pool: &mut [S::Bits], token: &NewToken<'_>) {
    for (kv_head, (new_keys, new_values)) in token.heads(layout.head_dim).enumerate() {
        let (mut keys, values) = head_mut(layout, pool, token.place, kv_head);
        S::convert(new_values, values);
        // Those of a token lie apart, so they are converted together before they are dealt out.
        let mut converted = [S::Bits::default(); 64];
        for new_keys in new_keys.chunks(converted.len()) {
            let converted = &mut converted[..new_keys.len()];
            S::convert(new_keys, converted);
            converted.iter().zip(keys.by_ref()).for_each(|(key, out)| *out = *key);
        }
    }
}

/// `layout` is that of pairs.
fn append_pairs(path: Path, layout: &KvLayout, pool: &mut [u32], token: &NewToken<'_>) {
    const SOME: usize = 64;
    let (place, head_dim) = (token.place, 2 * layout.head_dim);
    let mut words = [0; SOME];
    for (kv_head, (new_keys, new_values)) in token.heads(head_dim).enumerate() {
        let (keys, values) = head_block_mut(layout, pool, place, kv_head);
        let mut keys = keys[place.slot..].iter_mut().step_by(layout.block_size);
        for new_keys in new_keys.chunks(2 * SOME) {
            let pairs = &mut words[..new_keys.len() / 2];
            round_to_pairs(path, new_keys, pairs);
            pairs.iter().zip(keys.by_ref()).for_each(|(pair, out)| *out = *pair);
        }
        let values = &mut values[place.slot / 2 * head_dim..];
        if is_lone(place.slot, layout.block_size) {
            round_to_pairs(path, new_values, values);
            continue;
        }
        let (kept, shift) = if place.slot.is_multiple_of(2) { (0x0000_FFFF, 0) } else { (0xFFFF_0000, 16) };
        for (values, new_values) in values.chunks_mut(SOME).zip(new_values.chunks(SOME)) {
            let singles = &mut words[..new_values.len()];
            round_to_singles(path, new_values, singles);
            values.iter_mut().zip(singles).for_each(|(out, single)| *out = *out & kept | *single >> shift);
        }
    }
}

fn append_int8(layout: &KvLayout, (quants, scales): (&mut [i8], &mut [f32]), token: &NewToken<'_>) {
    let (place, scale_layout) = (token.place, scale_layout(layout));
    for (kv_head, (new_keys, new_values)) in token.heads(layout.head_dim).enumerate() {
        let (of_keys, of_values) = (HeadScale::of(new_keys), HeadScale::of(new_values));
        let (keys, values) = head_mut(layout, quants, place, kv_head);
        keys.zip(new_keys).for_each(|(out, value)| *out = of_keys.quantise(*value));
        values.iter_mut().zip(new_values).for_each(|(out, value)| *out = of_values.quantise(*value));
        let (key_scale, value_scale) = head_mut(&scale_layout, scales, place, kv_head);
        key_scale.for_each(|out| *out = of_keys.scale);
        value_scale.fill(of_values.scale);
    }
}

fn copy_blocks<T: Copy>(layout: &KvLayout, pool: &mut [T], copies: &[BlockCopy]) {
    let len = block_len(layout);
    for copy in copies {
        for layer in 0..layout.num_layers {
            let from = keys_at(layout, layer, copy.from.0 as usize);
            let to = keys_at(layout, layer, copy.to.0 as usize);
            let values = layout.num_blocks * len;
            pool.copy_within(from..from + len, to);
            pool.copy_within(from + values..from + values + len, to + values);
        }
    }
}

/// Copies a block of one pool, all layers, over a block of another.
fn copy_block<T: Copy>(
    here: &mut [T],
    there: &[T],
    (their_layout, from): (&KvLayout, usize),
    (our_layout, to): (&KvLayout, usize),
) {
    let len = block_len(our_layout);
    for layer in 0..our_layout.num_layers {
        let (from, to) = (keys_at(their_layout, layer, from), keys_at(our_layout, layer, to));
        let values = (from + their_layout.num_blocks * len, to + our_layout.num_blocks * len);
        for (from, to) in [(from, to), values] {
            here[to..to + len].copy_from_slice(&there[from..from + len]);
        }
    }
}
