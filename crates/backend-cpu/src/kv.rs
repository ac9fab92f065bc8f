//! The KV pool. Knows its layout, not which block belongs to whom.

use serving_types::BlockCopy;
use tensor_backend::{Element, KvElement, KvLayout};

use crate::CpuError;
use crate::error::{bytes_of, zeroed};
use crate::float::{Brain, Half, Single, StoredFloat};
use crate::head_scale::HeadScale;

/// Keys and values of all layers: `[layers][key, value][blocks]`. A block of keys is `[kv heads][head_dim][block_size]`, so
/// that one vector holds an element of consecutive positions; a block of values is `[kv heads][block_size][head_dim]`. The
/// scales of signed bytes are a pool of their own, of heads with one element.
#[derive(Debug)]
pub struct Kv {
    layout: KvLayout,
    pub(crate) values: KvValues,
}

#[derive(Debug)]
pub(crate) enum KvValues {
    F32(Vec<f32>),
    F16(Vec<u16>),
    BF16(Vec<u16>),
    Int8 { quants: Vec<i8>, scales: Vec<f32> },
}

/// The keys and values of one head in one block.
pub(crate) struct HeadBlock<'a, T> {
    /// `[head_dim][block_size]`
    pub(crate) keys: &'a [T],
    /// `[block_size][head_dim]`
    pub(crate) values: &'a [T],
}

impl Kv {
    pub(crate) fn new(layout: &KvLayout) -> Result<Self, CpuError> {
        const WHAT: &str = "the KV pool";
        let num_heads = 2 * layout.num_layers * layout.num_blocks * layout.block_size * layout.num_kv_heads;
        let len = num_heads * layout.head_dim;
        let values = match layout.element {
            KvElement::Float(Element::F32) => KvValues::F32(zeroed(len, 0.0, WHAT)?),
            KvElement::Float(Element::F16) => KvValues::F16(zeroed(len, 0, WHAT)?),
            KvElement::Float(Element::BF16) => KvValues::BF16(zeroed(len, 0, WHAT)?),
            KvElement::Int8 => KvValues::Int8 { quants: zeroed(len, 0, WHAT)?, scales: zeroed(num_heads, 0.0, WHAT)? },
        };
        Ok(Self { layout: *layout, values })
    }

    pub(crate) fn bytes(&self) -> u64 {
        match &self.values {
            KvValues::F32(values) => bytes_of(values),
            KvValues::F16(values) | KvValues::BF16(values) => bytes_of(values),
            KvValues::Int8 { quants, scales } => bytes_of(quants) + bytes_of(scales),
        }
    }

    pub(crate) fn layout(&self) -> &KvLayout {
        &self.layout
    }

    pub(crate) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        match &mut self.values {
            KvValues::F32(values) => copy_blocks(&self.layout, values, copies),
            KvValues::F16(values) | KvValues::BF16(values) => copy_blocks(&self.layout, values, copies),
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
        let (from, to) = ((there, from), (here, to));
        match (&mut self.values, &other.values) {
            (KvValues::F32(here), KvValues::F32(there)) => copy_block(here, there, from, to),
            (KvValues::F16(here), KvValues::F16(there)) | (KvValues::BF16(here), KvValues::BF16(there)) => {
                copy_block(here, there, from, to);
            }
            (KvValues::Int8 { quants, scales }, KvValues::Int8 { quants: other_quants, scales: other_scales }) => {
                copy_block(quants, other_quants, from, to);
                let (there, here) = (scale_layout(there), scale_layout(here));
                copy_block(scales, other_scales, (&there, from.1), (&here, to.1));
            }
            _ => unreachable!("values are stored as the layout says"),
        }
    }

    /// Appends one token's keys and values, `[kv heads][head_dim]` each, at `slot` of `block`.
    pub(crate) fn append(&mut self, place: TokenPlace, keys: &[f32], values: &[f32]) {
        match &mut self.values {
            KvValues::F32(pool) => append::<Single>(&self.layout, pool, place, keys, values),
            KvValues::F16(pool) => append::<Half>(&self.layout, pool, place, keys, values),
            KvValues::BF16(pool) => append::<Brain>(&self.layout, pool, place, keys, values),
            KvValues::Int8 { quants, scales } => append_int8(&self.layout, (quants, scales), place, keys, values),
        }
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

/// One head of a token: the elements of its keys, which lie apart, and of its values.
fn head_mut<'a, T>(
    layout: &KvLayout,
    pool: &'a mut [T],
    place: TokenPlace,
    kv_head: usize,
) -> (impl Iterator<Item = &'a mut T>, &'a mut [T]) {
    let (head_dim, block_size) = (layout.head_dim, layout.block_size);
    assert!(place.slot < block_size);
    let head_len = block_size * head_dim;
    let keys_at = keys_at(layout, place.layer, place.block) + kv_head * head_len;
    let (keys, rest) = pool[keys_at..].split_at_mut(head_len);
    let values_at = layout.num_blocks * block_len(layout) - head_len + place.slot * head_dim;
    let keys = keys.chunks_exact_mut(block_size).map(move |positions| &mut positions[place.slot]);
    (keys, &mut rest[values_at..][..head_dim])
}

fn append<S: StoredFloat>(
    layout: &KvLayout,
    pool: &mut [S::Bits],
    place: TokenPlace,
    new_keys: &[f32],
    new_values: &[f32],
) {
    let heads = new_keys.chunks_exact(layout.head_dim).zip(new_values.chunks_exact(layout.head_dim));
    for (kv_head, (new_keys, new_values)) in heads.enumerate() {
        let (mut keys, values) = head_mut(layout, pool, place, kv_head);
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

fn append_int8(
    layout: &KvLayout,
    (quants, scales): (&mut [i8], &mut [f32]),
    place: TokenPlace,
    new_keys: &[f32],
    new_values: &[f32],
) {
    let scale_layout = scale_layout(layout);
    let heads = new_keys.chunks_exact(layout.head_dim).zip(new_values.chunks_exact(layout.head_dim));
    for (kv_head, (new_keys, new_values)) in heads.enumerate() {
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
