//! The KV pool. Knows its layout, not which block belongs to whom.

use std::ops::Range;

use serving_types::BlockCopy;
use tensor_backend::{Element, KvLayout};

use crate::CpuError;
use crate::error::{bytes_of, zeroed};
use crate::float::{Brain, Half, Single, StoredFloat};

/// Keys and values of all layers: `[layers][key, value][blocks]`. A block of keys is `[kv heads][head_dim][block_size]`, so
/// that one vector holds an element of consecutive positions; a block of values is `[kv heads][block_size][head_dim]`.
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
}

/// The keys and values of one head in one block.
pub(crate) struct HeadBlock<'a, S: StoredFloat> {
    /// `[head_dim][block_size]`
    pub(crate) keys: &'a [S::Bits],
    /// `[block_size][head_dim]`
    pub(crate) values: &'a [S::Bits],
}

impl Kv {
    pub(crate) fn new(layout: &KvLayout) -> Result<Self, CpuError> {
        let len = (layout.total_bytes() / layout.element.bytes() as u64) as usize;
        let values = match layout.element {
            Element::F32 => KvValues::F32(zeroed(len, 0.0, "the KV pool")?),
            Element::F16 => KvValues::F16(zeroed(len, 0, "the KV pool")?),
            Element::BF16 => KvValues::BF16(zeroed(len, 0, "the KV pool")?),
        };
        Ok(Self { layout: *layout, values })
    }

    pub(crate) fn bytes(&self) -> u64 {
        match &self.values {
            KvValues::F32(values) => bytes_of(values),
            KvValues::F16(values) | KvValues::BF16(values) => bytes_of(values),
        }
    }

    pub(crate) fn layout(&self) -> &KvLayout {
        &self.layout
    }

    pub(crate) fn copy_blocks(&mut self, copies: &[BlockCopy]) {
        match &mut self.values {
            KvValues::F32(values) => copy_blocks(&self.layout, values, copies),
            KvValues::F16(values) | KvValues::BF16(values) => copy_blocks(&self.layout, values, copies),
        }
    }

    /// Overwrites block `to` with block `from` of another pool with the same element and shape of block.
    pub(crate) fn copy_block_from(&mut self, other: &Self, from: usize, to: usize) {
        let (here, there) = (&self.layout, &other.layout);
        assert_eq!(KvLayout { num_blocks: here.num_blocks, ..*there }, *here, "blocks of both pools have one shape");
        let copies = block_copies((there, from), (here, to));
        match (&mut self.values, &other.values) {
            (KvValues::F32(here), KvValues::F32(there)) => copy_ranges(here, there, copies),
            (KvValues::F16(here), KvValues::F16(there)) | (KvValues::BF16(here), KvValues::BF16(there)) => {
                copy_ranges(here, there, copies);
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
pub(crate) fn head_block<'a, S: StoredFloat>(
    layout: &KvLayout,
    pool: &'a [S::Bits],
    layer: usize,
    block: usize,
    kv_head: usize,
) -> HeadBlock<'a, S> {
    let head_len = layout.block_size * layout.head_dim;
    let keys = keys_at(layout, layer, block) + kv_head * head_len;
    let values = keys + layout.num_blocks * block_len(layout);
    HeadBlock { keys: &pool[keys..][..head_len], values: &pool[values..][..head_len] }
}

fn append<S: StoredFloat>(
    layout: &KvLayout,
    pool: &mut [S::Bits],
    place: TokenPlace,
    new_keys: &[f32],
    new_values: &[f32],
) {
    let (head_dim, block_size) = (layout.head_dim, layout.block_size);
    assert!(place.slot < block_size);
    let at = keys_at(layout, place.layer, place.block);
    let (keys, rest) = pool[at..].split_at_mut(block_len(layout));
    let values = &mut rest[(layout.num_blocks - 1) * block_len(layout)..][..block_len(layout)];
    for (head, new) in new_keys.chunks_exact(head_dim).enumerate() {
        let head = &mut keys[head * head_dim * block_size..][..head_dim * block_size];
        for (positions, &value) in head.chunks_exact_mut(block_size).zip(new) {
            positions[place.slot] = S::from_f32(value);
        }
    }
    for (head, new) in new_values.chunks_exact(head_dim).enumerate() {
        let out = &mut values[(head * block_size + place.slot) * head_dim..][..head_dim];
        for (out, &value) in out.iter_mut().zip(new) {
            *out = S::from_f32(value);
        }
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

/// Where keys and values of each layer of a block lie, in the pool that it is copied from and in the one it is copied to.
fn block_copies(
    (there, from): (&KvLayout, usize),
    (here, to): (&KvLayout, usize),
) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
    let len = block_len(here);
    let (there, here) = (*there, *here);
    (0..here.num_layers).flat_map(move |layer| {
        let (from, to) = (keys_at(&there, layer, from), keys_at(&here, layer, to));
        let values = (from + there.num_blocks * len, to + here.num_blocks * len);
        [(from, to), values].map(|(from, to)| (from..from + len, to..to + len))
    })
}

fn copy_ranges<T: Copy>(here: &mut [T], there: &[T], copies: impl Iterator<Item = (Range<usize>, Range<usize>)>) {
    for (from, to) in copies {
        here[to].copy_from_slice(&there[from]);
    }
}
