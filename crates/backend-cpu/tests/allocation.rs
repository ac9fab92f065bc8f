//! A step allocates nothing once its shapes have been seen. On one thread: the counter is that thread's.
#![allow(unsafe_code, reason = "a counting allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use backend_cpu::{CpuBackend, CpuConfig, Precision};
use model_format::TensorFormat;
use serving_types::{BatchOutput, RowSlot, SamplingParams};
use tensor_backend::{
    AttentionLayout, Backend, Element, Embed, GatedMatMul, GatherRows, InputLimits, KvLayout, LogitChoice, LogitJob,
    MatMul, PagedAttention, RmsNorm, RopeAppend, RowOrder, Sample, SamplerLimits, SlotHistory, StepInputs, TableUpdate,
    WeightPart, WeightRole,
};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system's allocator does the work; the counter is a plain thread-local number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HIDDEN: usize = 64;
const VOCAB: usize = 100;
const TOKENS: usize = 5;

/// Every part of sampling that keeps or needs memory.
fn params() -> SamplingParams {
    SamplingParams {
        temperature: 0.7,
        top_k: 20,
        top_p: 0.9,
        repetition_penalty: 1.1,
        logprobs: Some(3),
        max_tokens: 100,
        ..SamplingParams::default()
    }
}

/// A prefill and a decode.
fn step() -> StepInputs {
    StepInputs {
        token_ids: vec![1, 2, 3, 4, 5],
        fed: vec![(4, RowSlot(1))],
        positions: vec![0, 1, 2, 3, 20],
        token_rows: vec![0, 0, 0, 0, 1],
        row_starts: vec![0, 4, 5],
        row_slots: vec![RowSlot(0), RowSlot(1)],
        context_lens: vec![4, 21],
        table_updates: (0..2).map(|index| TableUpdate { slot: RowSlot(1), index, block: 1 + index }).collect(),
        jobs: vec![
            LogitJob { token_index: 3, slot: RowSlot(0), choice: LogitChoice::Score { target: 7, num_top: 2 } },
            LogitJob { token_index: 4, slot: RowSlot(1), choice: LogitChoice::Sample { output_position: 0 } },
        ],
    }
}

#[test]
fn a_repeated_step_allocates_nothing() {
    let config = CpuConfig { threads: Some(1), precision: Precision::Native };
    let mut backend = CpuBackend::new(config).unwrap();
    let mut weight = |rows: usize, parts: usize, role| {
        let values: Vec<f32> = (0..rows * HIDDEN).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
        let format = TensorFormat::Q4_1;
        let bytes = model_format::quantize(format, &values);
        let part = WeightPart { bytes: &bytes, format, rows, cols: HIDDEN, order: RowOrder::Natural };
        backend.load_weight(&vec![part; parts], role).unwrap()
    };
    let table = weight(VOCAB, 1, WeightRole::TiedEmbedding);
    let qkv_weight = weight(HIDDEN, 3, WeightRole::Product);
    let gated_weight = weight(HIDDEN, 2, WeightRole::GatedProduct);
    let mut buffer = |cols| backend.alloc(TOKENS, cols, Element::F32).unwrap();
    let (mut x, mut normed, mut attended, mut gated) = (buffer(HIDDEN), buffer(HIDDEN), buffer(HIDDEN), buffer(HIDDEN));
    let (mut qkv, mut logits) = (buffer(3 * HIDDEN), buffer(VOCAB));
    let mut norm = backend.alloc(1, HIDDEN, Element::F32).unwrap();
    backend.write(&mut norm, &[1.0; HIDDEN]).unwrap();
    let mut rope = backend.alloc(64, 32, Element::F32).unwrap();
    backend.write(&mut rope, &[0.5; 64 * 32]).unwrap();
    let layout = KvLayout {
        num_layers: 1,
        num_blocks: 4,
        block_size: 16,
        num_kv_heads: 2,
        head_dim: 32,
        element: Element::F16.into(),
    };
    let mut kv = backend.alloc_kv(&layout).unwrap();
    let attention =
        AttentionLayout { num_heads: 2, num_kv_heads: 2, head_dim: 32, block_size: 16, sliding_window: None };
    let limits = InputLimits { max_tokens: TOKENS, max_slots: 2, max_blocks_per_slot: 4, max_jobs: TOKENS, attention };
    let mut inputs = backend.new_inputs(&limits).unwrap();
    let mut sampler = backend
        .new_sampler(&SamplerLimits { max_slots: 2, vocab_size: VOCAB, max_context_len: 64, max_jobs_at_once: 1 })
        .unwrap();
    let mut samples = backend.new_samples(TOKENS, 3).unwrap();
    for slot in 0..2 {
        let history = SlotHistory { tokens: &[1, 2, 3], num_prompt_tokens: 3 };
        backend.open_slot(&mut sampler, RowSlot(slot), &params(), history).unwrap();
    }
    let mut step = step();
    let mut output = BatchOutput::default();
    let mut counts = Vec::with_capacity(20);
    for round in 0..20 {
        let before = ALLOCATIONS.with(Cell::get);
        step.jobs[1].choice = LogitChoice::Sample { output_position: round };
        backend.upload(&mut inputs, &step).unwrap();
        let rows = TOKENS;
        backend.embed(Embed { inputs: &inputs, sampler: &sampler, table: &table, out: &mut x, rows }).unwrap();
        backend.rms_norm(RmsNorm { x: &x, weight: &norm, eps: 1e-5, out: &mut normed, rows }).unwrap();
        backend.matmul(MatMul { x: &normed, weight: &qkv_weight, bias: None, out: &mut qkv, rows }).unwrap();
        let op = RopeAppend {
            inputs: &inputs,
            qkv: &mut qkv,
            rope: &rope,
            qk_norm: None,
            kv: &mut kv,
            layer: 0,
            num_heads: 2,
            rows,
        };
        backend.rope_append(op).unwrap();
        let op = PagedAttention {
            inputs: &inputs,
            qkv: &qkv,
            kv: &kv,
            layer: 0,
            num_heads: 2,
            scale: 0.2,
            sliding_window: None,
            out: &mut attended,
            rows,
        };
        backend.paged_attention(op).unwrap();
        let op = GatedMatMul { x: &attended, weight: &gated_weight, out: &mut gated, rows };
        backend.gated_matmul(op).unwrap();
        backend.gather_rows(GatherRows { inputs: &inputs, jobs: 0..2, x: &gated, out: &mut normed }).unwrap();
        backend.matmul(MatMul { x: &normed, weight: &table, bias: None, out: &mut logits, rows: 2 }).unwrap();
        let op =
            Sample { inputs: &inputs, jobs: 0..2, logits: &mut logits, sampler: &mut sampler, samples: &mut samples };
        backend.sample(op).unwrap();
        output.clear();
        backend.read_samples(&samples, &[0..1, 1..2], &mut output).unwrap();
        counts.push(ALLOCATIONS.with(Cell::get) - before);
    }
    assert!(counts[0] > 0, "the counter counts");
    assert_eq!(counts[1..], [0; 19]);
    assert!(output.rows.iter().all(|row| row.fault.is_none()));
}
