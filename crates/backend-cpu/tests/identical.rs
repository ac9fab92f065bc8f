//! The same bits from every instruction path and any number of threads, for stored weights and activations of any content:
//! random bytes, hence also denormal, huge, infinite and NaN scales and values.

use backend_cpu::{Buffer, CpuBackend, CpuConfig, Instructions, Precision};
use model_format::TensorFormat;
use serving_types::RowSlot;
use tensor_backend::{
    AttentionLayout, Backend, Element, GatedMatMul, InputLimits, KvElement, KvLayout, MatMul, PagedAttention, QkNorm,
    RmsNorm, RopeAppend, RotaryFrequencies, RowOrder, StepInputs, TableUpdate, WeightPart, WeightRole,
};

/// xorshift64 (Marsaglia, 2003).
fn words(seed: u64) -> impl FnMut() -> u32 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    }
}

struct Case {
    format: TensorFormat,
    precision: Precision,
    rows: usize,
    k: usize,
    n: usize,
    /// Wild values are any bit patterns; tame ones are around 1.
    wild: bool,
}

impl Case {
    fn x(&self) -> Vec<f32> {
        let mut next = words(self.rows as u64 * 77 + self.k as u64);
        let value = |bits: u32| if self.wild { f32::from_bits(bits) } else { bits as f32 / 2e9 - 1.0 };
        (0..self.rows * self.k).map(|_| value(next())).collect()
    }

    fn bytes(&self) -> Vec<u8> {
        let len = self.n * self.format.row_bytes(self.k).unwrap();
        if self.wild {
            let mut next = words(len as u64);
            (0..len).map(|_| next() as u8).collect()
        } else {
            let mut next = words(5);
            let values: Vec<f32> = (0..self.n * self.k).map(|_| next() as f32 / 2e9 - 1.0).collect();
            model_format::quantize(self.format, &values)
        }
    }

    /// The results of all ops.
    fn run(&self, instructions: Instructions, threads: usize) -> Vec<u32> {
        let config = CpuConfig { threads: Some(threads), precision: self.precision };
        let mut backend = CpuBackend::with_instructions(config, instructions).unwrap();
        let (x, bytes) = (self.x(), self.bytes());
        let part =
            WeightPart { bytes: &bytes, format: self.format, rows: self.n, cols: self.k, order: RowOrder::Natural };
        let mut alloc = |rows, cols| backend.alloc(rows, cols, Element::F32).unwrap();
        let (mut input, mut product) = (alloc(self.rows, self.k), alloc(self.rows, self.n));
        let mut gated = alloc(self.rows, self.n);
        let (mut norm, mut normed) = (alloc(1, self.k), alloc(self.rows, self.k));
        backend.write(&mut input, &x).unwrap();
        backend.write(&mut norm, &x[..self.k]).unwrap();
        let rows = self.rows;
        let weight = backend.load_weight(&[part], WeightRole::Product).unwrap();
        backend.matmul(MatMul { x: &input, weight: &weight, bias: None, out: &mut product, rows }).unwrap();
        let weight = backend.load_weight(&[part, part], WeightRole::GatedProduct).unwrap();
        let op = GatedMatMul { x: &input, weight: &weight, out: &mut gated, rows };
        backend.gated_matmul(op).unwrap();
        backend.rms_norm(RmsNorm { x: &input, weight: &norm, eps: 1e-5, out: &mut normed, rows }).unwrap();
        [product, gated, normed].iter().flat_map(|buffer| bits(&mut backend, buffer, rows)).collect()
    }
}

/// The leading rows of a buffer, NaNs made equal.
fn bits(backend: &mut CpuBackend, buffer: &Buffer, rows: usize) -> Vec<u32> {
    let values = backend.read(buffer, 0..rows).unwrap();
    values.into_iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}

/// All paths and numbers of threads give what the plain path gives on one thread.
fn check(what: &str, run: impl Fn(Instructions, usize) -> Vec<u32>) {
    let reference = run(Instructions::Plain, 1);
    for instructions in Instructions::ALL.into_iter().filter(|path| path.available()) {
        for threads in [1, 2, 5] {
            assert!(run(instructions, threads) == reference, "{what}: {instructions}, {threads} threads");
        }
    }
}

fn check_case(case: &Case) {
    let Case { format, precision, rows, k, n, wild } = *case;
    check(&format!("{format}, {precision:?}, {rows} x {k} x {n}, wild {wild}"), |instructions, threads| {
        case.run(instructions, threads)
    });
}

/// Rows, blocks of columns and outputs: every height of a tile, beside and across the borders of panels of 16 and units of
/// 32 outputs.
const SHAPES: [(usize, usize, usize); 13] = [
    (1, 1, 1),
    (1, 2, 1100),
    (2, 2, 15),
    (2, 6, 33),
    (3, 1, 17),
    (5, 3, 31),
    (7, 2, 33),
    (8, 1, 47),
    (9, 3, 20),
    (15, 1, 90),
    (17, 2, 65),
    (33, 1, 50),
    (67, 1, 17),
];

#[test]
fn products_and_norms_give_the_same_bits() {
    for format in TensorFormat::ALL {
        for wild in [false, true] {
            for (rows, blocks, n) in SHAPES {
                // Floats have no blocks: odd numbers of columns.
                let k = if format.block_len() == 1 { 37 * blocks } else { blocks * format.block_len() };
                check_case(&Case { format, precision: Precision::Native, rows, k, n, wild });
            }
            check_case(&Case { format, precision: Precision::Exact, rows: 19, k: 256, n: 70, wild });
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Heads {
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    block_size: usize,
    sliding_window: Option<usize>,
    element: KvElement,
}

/// A context that is filled by a first step, longer than what is attended to at a time, and a decode row on it beside a short
/// prefill.
const STEPS: [&[(usize, usize)]; 2] = [&[(0, CONTEXT)], &[(CONTEXT, 1), (0, 20)]];

const CONTEXT: usize = 290;

impl Heads {
    /// Both steps' queries, keys and values after their norms and rotation, and what was attended, of all tokens but a step's
    /// last. Values that are given spoil those of the last token of all.
    fn run(&self, instructions: Instructions, threads: usize, spoiled: Option<f32>) -> Vec<u32> {
        let config = CpuConfig { threads: Some(threads), precision: Precision::Native };
        let mut backend = CpuBackend::with_instructions(config, instructions).unwrap();
        let Self { num_heads, num_kv_heads, head_dim, block_size, sliding_window, element } = *self;
        let max_blocks_per_slot = (CONTEXT + 1).div_ceil(block_size);
        let layout = KvLayout {
            num_layers: 1,
            num_blocks: 2 * max_blocks_per_slot,
            block_size,
            num_kv_heads,
            head_dim,
            element,
        };
        let mut kv = backend.alloc_kv(&layout).unwrap();
        let attention = AttentionLayout { num_heads, num_kv_heads, head_dim, block_size, sliding_window: None };
        let limits = InputLimits { max_tokens: CONTEXT, max_slots: 2, max_blocks_per_slot, max_jobs: 1, attention };
        let mut inputs = backend.new_inputs(&limits).unwrap();
        let mut next = words(head_dim as u64);
        let mut matrix = |backend: &mut CpuBackend, rows: usize, cols: usize| {
            let values: Vec<f32> = (0..rows * cols).map(|_| next() as f32 / 2e9 - 1.0).collect();
            let mut buffer = backend.alloc(rows, cols, Element::F32).unwrap();
            backend.write(&mut buffer, &values).unwrap();
            buffer
        };
        let [q_weight, k_weight] = [0; 2].map(|_| matrix(&mut backend, 1, head_dim));
        let frequencies = RotaryFrequencies { inverse: vec![0.3; head_dim / 2], amplitude: 1.0 };
        let mut rope = backend.alloc(CONTEXT + 1, head_dim, Element::F32).unwrap();
        backend.write(&mut rope, &frequencies.table(CONTEXT + 1)).unwrap();
        let mut results = Vec::new();
        for (nth, rows) in STEPS.into_iter().enumerate() {
            let step = step_of(rows, max_blocks_per_slot);
            let rows = step.num_tokens();
            backend.upload(&mut inputs, &step).unwrap();
            let cols = (num_heads + 2 * num_kv_heads) * head_dim;
            let mut qkv = matrix(&mut backend, rows, cols);
            if let Some(value) = spoiled.filter(|_| nth + 1 == STEPS.len()) {
                let mut values = backend.read(&qkv, 0..rows).unwrap();
                values[rows * cols - num_kv_heads * head_dim..].fill(value);
                backend.write(&mut qkv, &values).unwrap();
            }
            let mut out = backend.alloc(rows, num_heads * head_dim, Element::F32).unwrap();
            let qk_norm = Some(QkNorm { q_weight: &q_weight, k_weight: &k_weight, eps: 1e-6 });
            let (inputs, rope, layer) = (&inputs, &rope, 0);
            let op = RopeAppend { inputs, qkv: &mut qkv, rope, qk_norm, kv: &mut kv, layer, num_heads, rows };
            backend.rope_append(op).unwrap();
            let (qkv, kv, scale) = (&qkv, &kv, 0.2);
            let op = PagedAttention { inputs, qkv, kv, layer, num_heads, scale, sliding_window, out: &mut out, rows };
            backend.paged_attention(op).unwrap();
            results.extend([qkv, &out].into_iter().flat_map(|buffer| bits(&mut backend, buffer, rows - 1)));
        }
        results
    }
}

/// Rows of (tokens already there, new tokens), in slots of their own.
fn step_of(rows: &[(usize, usize)], max_blocks_per_slot: usize) -> StepInputs {
    let mut step = StepInputs { row_starts: vec![0], ..StepInputs::default() };
    for (row, &(start, new)) in (0..).zip(rows) {
        step.token_ids.extend((0..new).map(|_| 0));
        step.positions.extend((start..start + new).map(|position| position as u32));
        step.token_rows.extend((0..new).map(|_| row));
        step.row_starts.push(step.token_ids.len() as u32);
        step.row_slots.push(RowSlot(row));
        step.context_lens.push((start + new) as u32);
        let first = row * max_blocks_per_slot as u32;
        let updates = (0..max_blocks_per_slot as u32).map(|index| (index, first + index));
        step.table_updates.extend(updates.map(|(index, block)| TableUpdate { slot: RowSlot(row), index, block }));
    }
    step
}

fn all_heads() -> impl Iterator<Item = Heads> {
    let (f32, f16, bf16) = (Element::F32.into(), Element::F16.into(), Element::BF16.into());
    [
        (9, 3, 64, 16, None, f16),
        (14, 2, 64, 16, None, bf16),
        (7, 1, 10, 3, None, f32),
        (26, 2, 24, 256, None, f16),
        (3, 3, 80, 1, Some(7), bf16),
        (4, 2, 40, 24, Some(133), f32),
        (9, 3, 64, 16, None, KvElement::Int8),
        (26, 2, 24, 256, Some(133), KvElement::Int8),
        (7, 1, 10, 3, None, KvElement::Int8),
        (4, 2, 64, 16, Some(21), bf16),
        (6, 2, 34, 7, None, bf16),
    ]
    .into_iter()
    .map(|(num_heads, num_kv_heads, head_dim, block_size, sliding_window, element)| Heads {
        num_heads,
        num_kv_heads,
        head_dim,
        block_size,
        sliding_window,
        element,
    })
}

#[test]
fn attention_gives_the_same_bits() {
    for heads in all_heads() {
        check(&format!("{heads:?}"), |instructions, threads| heads.run(instructions, threads, None));
    }
}

#[test]
fn what_is_not_finite_is_seen_by_later_tokens_only() {
    for heads in all_heads() {
        let [run, of_nan, of_infinities] =
            [None, Some(f32::NAN), Some(f32::INFINITY)].map(|spoiled| heads.run(Instructions::best(), 2, spoiled));
        assert!(run == of_nan, "{heads:?}, NaN");
        assert!(run == of_infinities, "{heads:?}, infinities");
    }
}
