//! Checks of rotary embedding, KV append, paged attention and block copies.

use core::slice;

use serving_types::{BlockCopy, BlockId, CopyId, HostBlockId, HostCopy};

use super::Options;
use super::fixture::{
    Random, RowSpec, assert_close, assert_same, buffer_of, parameters, poisoned, read_poisoned, rounded, step_of,
    stored,
};
use super::reference::{attend, rms_norm, rotate};
use super::shapes::{ATTENTION, ATTENTION_STEPS, AttentionShape};
use crate::{
    AttentionLayout, Backend, Element, InputLimits, KvElement, KvLayout, PagedAttention, QkNorm, RopeAppend,
    RotaryFrequencies,
};

const NUM_LAYERS: usize = 2;

/// Largest error of attention over keys and values in bytes, relative to the size of its results. An element is off by up to
/// half a step, about a hundredth of a head's typical magnitude, and so are scores, which weigh the values.
const INT8_TOLERANCE: f64 = 0.05;

/// Rows whose whole context is known: what the keys and values at each position are, and the queries of the new tokens.
struct Scene {
    shape: AttentionShape,
    element: KvElement,
    rows: Vec<RowSpec>,
    num_blocks: usize,
    /// For each row, `[positions][(heads + 2 kv heads) * head_dim]`.
    contexts: Vec<Vec<f32>>,
}

/// The device's side of a scene.
struct Device<B: Backend> {
    inputs: B::Inputs,
    kv: B::Kv,
    /// A table that rotates nothing.
    identity: B::Buffer,
    /// The layer that ops work on.
    layer: usize,
}

impl Scene {
    fn new(shape: AttentionShape, steps: &[(usize, usize)], element: KvElement, activation: Element) -> Self {
        let mut random = Random::new((shape.head_dim * 3 + shape.block_size + steps.len()) as u64);
        let blocks_of = |&(start, new): &(usize, usize)| (start + new).div_ceil(shape.block_size);
        // A few blocks belong to nobody.
        let num_blocks = steps.iter().map(blocks_of).sum::<usize>() + 3;
        let mut free = random.permutation(num_blocks).into_iter();
        let rows: Vec<RowSpec> = steps
            .iter()
            .enumerate()
            .map(|(index, step)| RowSpec {
                // Slots in another order than rows.
                slot: (steps.len() - 1 - index) as u32,
                start: step.0,
                tokens: vec![0; step.1],
                blocks: free.by_ref().take(blocks_of(step)).collect(),
            })
            .collect();
        let cols = Self::cols_of(shape);
        let mut context = |row: &RowSpec| {
            let values = rounded(&random.values(row.end() * cols), activation);
            stored(&values, shape.head_dim, element)
        };
        let contexts = rows.iter().map(&mut context).collect();
        Self { shape, element, rows, num_blocks, contexts }
    }

    fn cols_of(shape: AttentionShape) -> usize {
        (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim
    }

    fn cols(&self) -> usize {
        Self::cols_of(self.shape)
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_dim as f32).sqrt()
    }

    fn layout(&self) -> KvLayout {
        KvLayout {
            num_layers: NUM_LAYERS,
            num_blocks: self.num_blocks,
            block_size: self.shape.block_size,
            num_kv_heads: self.shape.num_kv_heads,
            head_dim: self.shape.head_dim,
            element: self.element,
        }
    }

    /// A pool that holds NaN everywhere but at the positions before each row's new tokens.
    fn set_up<B: Backend>(&self, backend: &mut B, layer: usize) -> Device<B> {
        let pool_tokens = self.num_blocks * self.shape.block_size;
        let limits = InputLimits {
            max_tokens: pool_tokens,
            max_slots: self.rows.len(),
            max_blocks_per_slot: self.num_blocks,
            max_jobs: 1,
            attention: AttentionLayout {
                num_heads: self.shape.num_heads,
                num_kv_heads: self.shape.num_kv_heads,
                head_dim: self.shape.head_dim,
                block_size: self.shape.block_size,
                sliding_window: self.shape.sliding_window,
            },
        };
        let mut identity = vec![1.0; pool_tokens * self.shape.head_dim];
        for row in identity.chunks_exact_mut(self.shape.head_dim) {
            row[self.shape.head_dim / 2..].fill(0.0);
        }
        let mut device = Device {
            inputs: backend.new_inputs(&limits).expect("inputs"),
            kv: backend.alloc_kv(&self.layout()).expect("a KV pool"),
            identity: parameters(backend, self.shape.head_dim, &identity),
            layer: 0,
        };
        let everything =
            RowSpec { slot: 0, start: 0, tokens: vec![0; pool_tokens], blocks: (0..self.num_blocks as u32).collect() };
        let nan = vec![f32::NAN; pool_tokens * self.cols()];
        for layer in 0..NUM_LAYERS {
            device.layer = layer;
            self.append(backend, &mut device, slice::from_ref(&everything), &nan);
        }
        device.layer = layer;
        let cols = self.cols();
        for (row, context) in self.rows.iter().zip(&self.contexts).filter(|(row, _)| row.start > 0) {
            let before = RowSpec { start: 0, tokens: vec![0; row.start], ..row.clone() };
            self.append(backend, &mut device, &[before], &context[..row.start * cols]);
        }
        device
    }

    /// Uploads rows and appends their keys and values, unrotated. Returns the buffer of queries, keys and values.
    fn append<B: Backend>(
        &self,
        backend: &mut B,
        device: &mut Device<B>,
        rows: &[RowSpec],
        values: &[f32],
    ) -> B::Buffer {
        backend.upload(&mut device.inputs, &step_of(rows, &[])).expect("an upload");
        let mut qkv = buffer_of(backend, self.cols(), values);
        let op = RopeAppend {
            inputs: &device.inputs,
            qkv: &mut qkv,
            rope: &device.identity,
            qk_norm: None,
            kv: &mut device.kv,
            layer: device.layer,
            num_heads: self.shape.num_heads,
            rows: rows.iter().map(|row| row.tokens.len()).sum(),
        };
        backend.rope_append(op).expect("an append");
        qkv
    }

    /// Appends and attends. `rows` are this scene's, or parts of them, as (index, row).
    fn attend<B: Backend>(&self, backend: &mut B, device: &mut Device<B>, rows: &[(usize, RowSpec)]) -> Vec<f32> {
        let cols = self.cols();
        let values: Vec<f32> = rows
            .iter()
            .flat_map(|(index, row)| &self.contexts[*index][row.start * cols..row.end() * cols])
            .copied()
            .collect();
        let specs: Vec<RowSpec> = rows.iter().map(|(_, row)| row.clone()).collect();
        let qkv = self.append(backend, device, &specs, &values);
        let num_tokens = values.len() / cols;
        let mut out = poisoned(backend, num_tokens, self.shape.num_heads * self.shape.head_dim);
        let op = PagedAttention {
            inputs: &device.inputs,
            qkv: &qkv,
            kv: &device.kv,
            layer: device.layer,
            num_heads: self.shape.num_heads,
            scale: self.scale(),
            sliding_window: self.shape.sliding_window,
            out: &mut out,
            rows: num_tokens,
        };
        backend.paged_attention(op).expect("attention");
        read_poisoned(backend, &out, num_tokens, "attention")
    }

    /// What the new tokens of a row attend to.
    fn expected(&self, index: usize) -> Vec<f64> {
        let row = &self.rows[index];
        (row.start..row.end())
            .flat_map(|position| attend_position(&self.shape, &self.contexts[index], position, self.scale()))
            .collect()
    }
}

/// Attention of all heads at a position of a context of `[positions][(heads + 2 kv heads) * head_dim]`.
fn attend_position(shape: &AttentionShape, context: &[f32], position: usize, scale: f32) -> Vec<f64> {
    let head_dim = shape.head_dim;
    let cols = Scene::cols_of(*shape);
    let head_at = |position: usize, head: usize| &context[position * cols + head * head_dim..][..head_dim];
    let first = shape.sliding_window.map_or(0, |window| (position + 1).saturating_sub(window));
    (0..shape.num_heads)
        .flat_map(|head| {
            let key_head = shape.num_heads + head / (shape.num_heads / shape.num_kv_heads);
            let keys: Vec<&[f32]> = (first..=position).map(|position| head_at(position, key_head)).collect();
            let values: Vec<&[f32]> =
                (first..=position).map(|position| head_at(position, key_head + shape.num_kv_heads)).collect();
            attend(head_at(position, head), &keys, &values, scale)
        })
        .collect()
}

/// Largest error of attention over keys and values of an element.
fn tolerance(options: &Options, element: KvElement) -> f64 {
    if element == KvElement::Float(Element::BF16) { options.bfloat16_tolerance } else { options.float_tolerance }
}

/// Attention of every shape, step and KV element: against the definition, each row as alone, and in chunks as at once.
///
/// # Panics
/// If a check fails.
pub fn check_attention<B: Backend>(backend: &mut B, options: &Options) {
    for (nth, &element) in options.kv_elements.iter().enumerate() {
        for (index, shape) in ATTENTION.into_iter().enumerate() {
            // Elements and steps are independent of one another, so the further elements take the steps in turns.
            for steps in ATTENTION_STEPS.iter().skip(if nth == 0 { 0 } else { (nth + index) % 4 }).step_by(1 + 3 * nth)
            {
                check_scene(backend, options, &Scene::new(shape, steps, element, backend.activation_element()));
            }
        }
    }
}

fn check_scene<B: Backend>(backend: &mut B, options: &Options, scene: &Scene) {
    let layer = NUM_LAYERS - 1;
    let shape = &scene.shape;
    let out_cols = shape.num_heads * shape.head_dim;
    let mut device = scene.set_up(backend, layer);
    let all: Vec<(usize, RowSpec)> = scene.rows.iter().cloned().enumerate().collect();
    let together = scene.attend(backend, &mut device, &all);
    let mut first_token = 0;
    for (index, row) in &all {
        let what = format!("attention, {:?}, {shape:?}, row of {} + {}", scene.element, row.start, row.tokens.len());
        let in_batch = &together[first_token * out_cols..][..row.tokens.len() * out_cols];
        first_token += row.tokens.len();
        let tolerance = tolerance(options, scene.element);
        assert_close(&what, in_batch, &scene.expected(*index), tolerance);

        let alone = scene.attend(backend, &mut device, &[(*index, row.clone())]);
        assert_same(&format!("{what}, alone"), in_batch, &alone, options.bitwise_rows, tolerance);

        let middle = row.tokens.len() / 3;
        if middle > 0 {
            let chunks = [
                RowSpec { tokens: vec![0; middle], ..row.clone() },
                RowSpec { start: row.start + middle, tokens: vec![0; row.tokens.len() - middle], ..row.clone() },
            ];
            let chunked: Vec<f32> =
                chunks.into_iter().flat_map(|chunk| scene.attend(backend, &mut device, &[(*index, chunk)])).collect();
            assert_same(&format!("{what}, chunked"), in_batch, &chunked, options.bitwise_rows, tolerance);
        }
    }
}

/// Rotation of queries and keys, with and without their norm, and the append: what attention then reads is what was
/// rotated.
///
/// # Panics
/// If a check fails.
pub fn check_rope_append<B: Backend>(backend: &mut B, options: &Options) {
    for &element in &options.kv_elements {
        for shape in ATTENTION {
            for with_norm in [None, Some(1e-6_f32)] {
                check_rope_append_of(backend, options, (shape, element, with_norm));
            }
        }
    }
}

fn check_rope_append_of<B: Backend>(
    backend: &mut B,
    options: &Options,
    (shape, element, eps): (AttentionShape, KvElement, Option<f32>),
) {
    let what = format!("rope, {shape:?}, {element:?}, norm {eps:?}");
    let AttentionShape { num_heads, num_kv_heads, head_dim, .. } = shape;
    let scene = Scene::new(shape, &[(0, 21), (0, 2)], element, backend.activation_element());
    let mut device = scene.set_up(backend, 0);
    let mut random = Random::new(9);
    let (q_weight, k_weight) = (random.values(head_dim), random.values(head_dim));
    let q_buffer = parameters(backend, head_dim, &q_weight);
    let k_buffer = parameters(backend, head_dim, &k_weight);
    let frequencies = RotaryFrequencies {
        inverse: (0..head_dim / 2).map(|i| 1e4_f64.powf(-2.0 * i as f64 / head_dim as f64)).collect(),
        amplitude: 1.0,
    };
    let table = frequencies.table(40);
    let rope = parameters(backend, head_dim, &table);

    let x: Vec<f32> = scene.contexts.concat();
    let (num_tokens, cols) = (x.len() / scene.cols(), scene.cols());
    backend.upload(&mut device.inputs, &step_of(&scene.rows, &[])).expect("an upload");
    let mut qkv = buffer_of(backend, cols, &x);
    let op = RopeAppend {
        inputs: &device.inputs,
        qkv: &mut qkv,
        rope: &rope,
        qk_norm: eps.map(|eps| QkNorm { q_weight: &q_buffer, k_weight: &k_buffer, eps }),
        kv: &mut device.kv,
        layer: 0,
        num_heads,
        rows: num_tokens,
    };
    backend.rope_append(op).expect("an append");

    let got = backend.read(&qkv, 0..num_tokens).expect("a read");
    let positions = (0..21).chain(0..2);
    let mut expected = Vec::new();
    for (position, row) in positions.zip(x.chunks_exact(cols)) {
        let rotation = &table[position * head_dim..][..head_dim];
        for (index, head) in row.chunks_exact(head_dim).enumerate() {
            let plain: Vec<f64> = head.iter().copied().map(f64::from).collect();
            let weight = if index < num_heads { &q_weight } else { &k_weight };
            expected.extend(match eps {
                _ if index >= num_heads + num_kv_heads => plain,
                Some(eps) => rotate(&rms_norm(head, weight, eps), rotation),
                None => rotate(&plain, rotation),
            });
        }
    }
    assert_close(&what, &got, &expected, options.float_tolerance);

    let mut out = poisoned(backend, num_tokens, num_heads * head_dim);
    let op = PagedAttention {
        inputs: &device.inputs,
        qkv: &qkv,
        kv: &device.kv,
        layer: 0,
        num_heads,
        scale: scene.scale(),
        sliding_window: shape.sliding_window,
        out: &mut out,
        rows: num_tokens,
    };
    backend.paged_attention(op).expect("attention");
    let attended = read_poisoned(backend, &out, num_tokens, &what);
    // Keys and values as the pool stores them; queries as they are.
    let in_pool: Vec<f32> = got
        .chunks_exact(cols)
        .flat_map(|row| {
            let (queries, keys_values) = row.split_at(num_heads * head_dim);
            [queries.to_vec(), stored(keys_values, head_dim, element)].concat()
        })
        .collect();
    let expected = |contexts: &[f32]| -> Vec<f64> {
        let (first, second) = contexts.split_at(21 * cols);
        let positions = (0..21).map(|position| (first, position)).chain((0..2).map(|position| (second, position)));
        positions.flat_map(|(context, position)| attend_position(&shape, context, position, scene.scale())).collect()
    };
    assert_close(&format!("{what}, attention"), &attended, &expected(&in_pool), tolerance(options, element));
    if element == KvElement::Int8 {
        assert_close(&format!("{what}, what bytes lose"), &attended, &expected(&got), INT8_TOLERANCE);
    }
}

/// Copies of whole blocks, of all layers, in the order given: a row that moves to the copies attends as before.
///
/// # Panics
/// If a check fails.
pub fn check_block_copies<B: Backend>(backend: &mut B, options: &Options) {
    for &element in &options.kv_elements {
        for shape in ATTENTION {
            let (scene, mut device) = scene_of_copies(backend, shape, element);
            let row = &scene.rows[0];
            let targets = &scene.rows[1].blocks;
            let spare = targets[row.blocks.len()];
            let mut copies = Vec::new();
            for (&from, &to) in row.blocks.iter().zip(targets) {
                // By way of a spare block, which holds another block's copy before and after.
                for (from, to) in [(from, spare), (spare, to)] {
                    let id = CopyId(copies.len() as u64);
                    copies.push(BlockCopy { id, from: BlockId(from), to: BlockId(to) });
                }
            }
            backend.copy_blocks(&mut device.kv, &copies).expect("copies");
            check_moved(backend, options, &scene, &mut device, "copied blocks");
        }
    }
}

/// Blocks that went to the host's pool and came back, to their own places and to others: a row attends in both as before,
/// though their places were overwritten as soon as ops could be enqueued, and though nobody waits for the copies but ops.
///
/// # Panics
/// If a check fails.
pub fn check_host_copies<B: Backend>(backend: &mut B, options: &Options) {
    let mark = backend.alloc(1, 1, Element::F32).expect("a buffer");
    for &element in &options.kv_elements {
        for shape in ATTENTION {
            let (scene, mut device) = scene_of_copies(backend, shape, element);
            let blocks: Vec<BlockId> = scene.rows[0].blocks.iter().copied().map(BlockId).collect();
            let targets: Vec<BlockId> = scene.rows[1].blocks[..blocks.len()].iter().copied().map(BlockId).collect();
            // Another number of blocks than the pool has, filled from the end.
            let num_host_blocks = blocks.len() + 2;
            let layout = KvLayout { num_blocks: num_host_blocks, ..scene.layout() };
            let mut host = backend.alloc_host_kv(&layout).expect("the host's KV pool");
            let place = |nth: usize| HostBlockId((num_host_blocks - 1 - nth) as u32);
            let offload = |(nth, &from): (usize, &BlockId)| HostCopy::Offload { from, to: place(nth) };
            let fetch = |(nth, &to): (usize, &BlockId)| HostCopy::Fetch { from: place(nth), to };
            let offloads: Vec<HostCopy> = blocks.iter().enumerate().map(offload).collect();
            let fetches: Vec<HostCopy> =
                blocks.iter().enumerate().chain(targets.iter().enumerate()).map(fetch).collect();

            // Reading waits for the ops before.
            backend.read(&mark, 0..1).expect("all that came before");
            backend.copy_host_blocks(&mut device.kv, &mut host, &offloads).expect("copies to the host");
            backend.order_after_host_copies(&mut host, &targets, &blocks).expect("an order");
            let overwrite = |(nth, (&from, &to)): (usize, (&BlockId, &BlockId))| {
                // What the targets hold is of no use.
                BlockCopy { id: CopyId(nth as u64), from, to }
            };
            let overwrites: Vec<BlockCopy> = targets.iter().zip(&blocks).enumerate().map(overwrite).collect();
            backend.copy_blocks(&mut device.kv, &overwrites).expect("copies");
            backend.read(&mark, 0..1).expect("all that came before");
            backend.copy_host_blocks(&mut device.kv, &mut host, &fetches).expect("copies from the host");
            backend.order_after_host_copies(&mut host, &[blocks, targets].concat(), &[]).expect("an order");
            check_moved(backend, options, &scene, &mut device, "blocks by way of the host");

            while backend.num_fetching(&mut host).expect("a number") > 0 {
                backend.await_fetches(&mut host).expect("the end of copies");
            }
        }
    }
}

/// Two rows, of which the second only makes the pool larger; its blocks are what the first one's are copied to. All layers
/// hold the same context, appended layer by layer.
fn scene_of_copies<B: Backend>(backend: &mut B, shape: AttentionShape, element: KvElement) -> (Scene, Device<B>) {
    let context = shape.block_size + 9;
    let steps = [(context, 2), (context + shape.block_size, 2)];
    let scene = Scene::new(shape, &steps, element, backend.activation_element());
    let mut device = scene.set_up(backend, 0);
    let row = &scene.rows[0];
    let before = RowSpec { start: 0, tokens: vec![0; row.start], ..row.clone() };
    for layer in 1..NUM_LAYERS {
        let values = &scene.contexts[0][..row.start * scene.cols()];
        device.layer = layer;
        scene.append(backend, &mut device, slice::from_ref(&before), values);
    }
    (scene, device)
}

/// The first row attends in the second one's blocks as in its own.
fn check_moved<B: Backend>(backend: &mut B, options: &Options, scene: &Scene, device: &mut Device<B>, what: &str) {
    let row = &scene.rows[0];
    let moved = RowSpec { blocks: scene.rows[1].blocks[..row.blocks.len()].to_vec(), ..row.clone() };
    for layer in 0..NUM_LAYERS {
        device.layer = layer;
        let what = format!("{what}, {:?}, {:?}, layer {layer}", scene.element, scene.shape);
        let copied = scene.attend(backend, device, &[(0, moved.clone())]);
        assert_close(&what, &copied, &scene.expected(0), tolerance(options, scene.element));
        let original = scene.attend(backend, device, &[(0, row.clone())]);
        assert_same(&what, &copied, &original, options.bitwise_rows, tolerance(options, scene.element));
    }
}
