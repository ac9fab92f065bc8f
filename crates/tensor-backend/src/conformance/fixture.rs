//! Values, weights and steps for the checks, and the comparisons. Knows no op.

use model_format::TensorFormat;
use serving_types::{RowSlot, TokenId};

use crate::{
    AttentionLayout, Backend, Element, InputLimits, KvElement, LogitJob, SamplerLimits, StepInputs, TableUpdate,
    WeightPart, WeightRole,
};

/// A stored matrix and its exact values.
pub(super) struct StoredMatrix {
    pub(super) format: TensorFormat,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) bytes: Vec<u8>,
    /// `[rows][cols]`
    pub(super) values: Vec<f32>,
}

impl StoredMatrix {
    pub(super) fn random(format: TensorFormat, rows: usize, cols: usize, random: &mut Random) -> Self {
        let bytes = model_format::quantize(format, &random.values(rows * cols));
        let mut values = vec![0.0; rows * cols];
        model_format::dequantize(format, &bytes, &mut values);
        Self { format, rows, cols, bytes, values }
    }

    pub(super) fn part(&self) -> WeightPart<'_> {
        WeightPart {
            bytes: &self.bytes,
            format: self.format,
            rows: self.rows,
            cols: self.cols,
            order: crate::RowOrder::Natural,
        }
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.cols..][..self.cols]
    }
}

/// Reproducible numbers (xorshift64*, Vigna 2016).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit as u64) as usize
    }

    /// Numbers around zero, bell-shaped, of variance 1.
    pub(super) fn values(&mut self, len: usize) -> Vec<f32> {
        let mut uniform = || self.below(1 << 24) as f32 / (1 << 24) as f32 - 0.5;
        (0..len).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * 3.0_f32.sqrt()).collect()
    }

    /// `0..len` in a random order.
    pub(super) fn permutation(&mut self, len: usize) -> Vec<u32> {
        let mut order: Vec<u32> = (0..len as u32).collect();
        for i in (1..len).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}

/// Rounds values to an element.
pub(super) fn rounded(values: &[f32], element: Element) -> Vec<f32> {
    let format = match element {
        Element::F32 => return values.to_vec(),
        Element::F16 => TensorFormat::F16,
        Element::BF16 => TensorFormat::BF16,
    };
    let mut out = vec![0.0; values.len()];
    model_format::dequantize(format, &model_format::quantize(format, values), &mut out);
    out
}

/// Values as a KV pool gives them back: whole heads of `head_dim`.
pub(super) fn stored(values: &[f32], head_dim: usize, element: KvElement) -> Vec<f32> {
    match element {
        KvElement::Float(element) => rounded(values, element),
        KvElement::Int8 => values.chunks_exact(head_dim).flat_map(in_bytes).collect(),
    }
}

fn in_bytes(head: &[f32]) -> impl Iterator<Item = f32> {
    let max = head.iter().fold(0.0, |max: f32, value| max.max(value.abs()));
    head.iter().map(move |value| (value * (127.0 / max)).round_ties_even() * (max / 127.0))
}

/// Activations of variance 1 that the backend holds exactly.
pub(super) fn activations<B: Backend>(backend: &B, len: usize, random: &mut Random) -> Vec<f32> {
    rounded(&random.values(len), backend.activation_element())
}

/// What `make` makes, which must take as many bytes as were `planned`.
pub(super) fn measured<B: Backend, T>(
    backend: &mut B,
    what: &str,
    planned: u64,
    make: impl FnOnce(&mut B) -> Result<T, B::Error>,
) -> T {
    let before = backend.allocated_bytes();
    let made = make(backend).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(backend.allocated_bytes() - before, planned, "{what}: bytes taken");
    made
}

/// A loaded weight, whose size was planned.
pub(super) fn load_weight<B: Backend>(
    backend: &mut B,
    what: &str,
    parts: &[WeightPart<'_>],
    role: WeightRole,
) -> B::Weight {
    let planned = backend.planned_weight_bytes(parts, role);
    measured(backend, what, planned, |backend| backend.load_weight(parts, role))
}

/// A buffer of activations with these values.
pub(super) fn buffer_of<B: Backend>(backend: &mut B, cols: usize, values: &[f32]) -> B::Buffer {
    let element = backend.activation_element();
    buffer_with(backend, cols, values, element)
}

/// A buffer of f32 with these values.
pub(super) fn parameters<B: Backend>(backend: &mut B, cols: usize, values: &[f32]) -> B::Buffer {
    buffer_with(backend, cols, values, Element::F32)
}

fn buffer_with<B: Backend>(backend: &mut B, cols: usize, values: &[f32], element: Element) -> B::Buffer {
    let mut buffer = backend.alloc(values.len() / cols, cols, element).expect("a buffer");
    backend.write(&mut buffer, values).expect("a write");
    buffer
}

/// Rows beyond those of an op, which it must not touch.
const SPARE_ROWS: usize = 2;

/// An output whose every element is NaN, with spare rows.
pub(super) fn poisoned<B: Backend>(backend: &mut B, rows: usize, cols: usize) -> B::Buffer {
    buffer_of(backend, cols, &vec![f32::NAN; (rows + SPARE_ROWS) * cols])
}

/// The rows of an output, once its spare rows were found untouched.
pub(super) fn read_poisoned<B: Backend>(backend: &mut B, buffer: &B::Buffer, rows: usize, what: &str) -> Vec<f32> {
    let spare = backend.read(buffer, rows..rows + SPARE_ROWS).expect("a read");
    assert!(spare.iter().all(|value| value.is_nan()), "{what}: wrote rows that take no part");
    backend.read(buffer, 0..rows).expect("a read")
}

/// A result in double precision, and the size that its error is measured by.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    pub(super) value: f64,
    pub(super) size: f64,
}

/// Each value within `tolerance` of the expected one, relative to its size.
pub(super) fn assert_within(what: &str, got: &[f32], expected: &[Expected], tolerance: f64) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    for (index, (&got, expected)) in got.iter().zip(expected).enumerate() {
        let Expected { value, size } = *expected;
        let error = (f64::from(got) - value).abs();
        let allowed = tolerance * (value.abs() + size + f64::from(f32::MIN_POSITIVE));
        assert!(error <= allowed, "{what}: element {index} is {got}, not {value} (error {error:e} of {allowed:e})");
    }
}

/// Each value within `tolerance` of the expected one, relative to its own size and that of all together.
pub(super) fn assert_close(what: &str, got: &[f32], expected: &[f64], tolerance: f64) {
    let mean_square = expected.iter().map(|value| value * value).sum::<f64>() / expected.len().max(1) as f64;
    let expected: Vec<Expected> = expected.iter().map(|&value| Expected { value, size: mean_square.sqrt() }).collect();
    assert_within(what, got, &expected, tolerance);
}

/// The same bits, or within the tolerance if the backend does not promise as much.
pub(super) fn assert_same(what: &str, got: &[f32], alone: &[f32], bitwise: bool, tolerance: f64) {
    if bitwise {
        assert_eq!(got.len(), alone.len(), "{what}: length");
        for (index, (got, alone)) in got.iter().zip(alone).enumerate() {
            assert_eq!(got.to_bits(), alone.to_bits(), "{what}: element {index} is {got} or {alone}");
        }
    } else {
        let alone: Vec<f64> = alone.iter().copied().map(f64::from).collect();
        assert_close(what, got, &alone, tolerance);
    }
}

/// Room for steps without attention.
pub(super) fn input_limits(max_tokens: usize, max_slots: usize, max_jobs: usize) -> InputLimits {
    let attention =
        AttentionLayout { num_heads: 1, num_kv_heads: 1, head_dim: 64, block_size: 16, sliding_window: None };
    InputLimits { max_tokens, max_slots, max_blocks_per_slot: 4, max_jobs, attention }
}

/// Sampling state of `max_slots` slots.
pub(super) fn sampler_limits(max_slots: usize, vocab_size: usize) -> SamplerLimits {
    SamplerLimits { max_slots, vocab_size, max_context_len: 128, max_jobs_at_once: max_slots.max(8) }
}

/// One row of a step.
#[derive(Clone, Debug)]
pub(super) struct RowSpec {
    pub(super) slot: u32,
    pub(super) start: usize,
    pub(super) tokens: Vec<TokenId>,
    /// The slot's whole block table.
    pub(super) blocks: Vec<u32>,
}

impl RowSpec {
    pub(super) fn end(&self) -> usize {
        self.start + self.tokens.len()
    }
}

/// The inputs of a step.
pub(super) fn step_of(rows: &[RowSpec], jobs: &[LogitJob]) -> StepInputs {
    let mut step = StepInputs::default();
    step.row_starts.push(0);
    for (index, row) in rows.iter().enumerate() {
        for (offset, &token) in row.tokens.iter().enumerate() {
            step.token_ids.push(token);
            step.positions.push((row.start + offset) as u32);
            step.token_rows.push(index as u32);
        }
        step.row_starts.push(step.token_ids.len() as u32);
        step.row_slots.push(RowSlot(row.slot));
        step.context_lens.push(row.end() as u32);
        for (index, &block) in row.blocks.iter().enumerate() {
            step.table_updates.push(TableUpdate { slot: RowSlot(row.slot), index: index as u32, block });
        }
    }
    step.jobs.extend_from_slice(jobs);
    step
}
