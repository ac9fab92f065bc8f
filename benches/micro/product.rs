//! A product of the CPU backend, of the shape and the format that the demo model has most of: the way down of its
//! feed-forward network, for a chunk of a prompt, on one thread. How fast products are is what `ops` measures, with all threads
//! and weights that come from memory; this one is here to be counted by `bench instructions`, and slowed down by `bench planted`,
//! which times it too: on one thread, with the weight in a cache, hardly anything but its own work moves it. Knows no model.

use std::hint::black_box;

use backend_cpu::{CpuBackend, CpuConfig};
use benches::draw_token_ids;
use criterion::{Criterion, Throughput};
use model_format::TensorFormat;
use tensor_backend::{Backend, Element, MatMul, RowOrder, WeightPart, WeightRole};

const INPUTS: usize = 1536;
const OUTPUTS: usize = 576;
/// Rows of a chunk; counted are fewer, for whatever counts is slow.
const ROWS: usize = 64;
const COUNTED_ROWS: usize = 4;

/// Everything that the product reads and writes.
struct Product {
    backend: CpuBackend,
    weight: <CpuBackend as Backend>::Weight,
    x: <CpuBackend as Backend>::Buffer,
    out: <CpuBackend as Backend>::Buffer,
    rows: usize,
}

impl Product {
    fn new(rows: usize) -> Self {
        let config = CpuConfig { threads: Some(1), ..CpuConfig::default() };
        let mut backend = CpuBackend::new(config).expect("it needs no thread but this one");
        let bytes = weight_bytes();
        let part = WeightPart {
            bytes: &bytes,
            format: TensorFormat::Q4_1,
            rows: OUTPUTS,
            cols: INPUTS,
            order: RowOrder::Natural,
        };
        let weight = backend.load_weight(&[part], WeightRole::Product).expect("the format is known");
        let mut x = backend.alloc(rows, INPUTS, Element::F32).expect("there is room");
        let values: Vec<f32> = draw_token_ids(rows * INPUTS, 2000, 1).iter().map(|id| *id as f32 / 1e3 - 1.0).collect();
        backend.write(&mut x, &values).expect("it has this size");
        let out = backend.alloc(rows, OUTPUTS, Element::F32).expect("there is room");
        Self { backend, weight, x, out, rows }
    }

    fn run(&mut self) {
        let Self { backend, weight, x, out, rows } = self;
        backend.matmul(MatMul { x, weight, bias: None, out, rows: *rows }).expect("the shapes agree");
        black_box(&self.out);
    }
}

/// Blocks of 32 elements: a scale of 1/16, a minimum of -1/2, both in half precision, and random nibbles.
fn weight_bytes() -> Vec<u8> {
    let nibbles = draw_token_ids(OUTPUTS * INPUTS / 2, 256, 2);
    let head = [0x00, 0x2c, 0x00, 0xb8];
    nibbles.chunks(16).flat_map(|block| head.into_iter().chain(block.iter().map(|byte| *byte as u8))).collect()
}

/// The product of a few rows, so many times.
pub(crate) fn multiply(num_times: u64) {
    let mut product = Product::new(COUNTED_ROWS);
    (0..num_times).for_each(|_| product.run());
}

pub(crate) fn backend_cpu(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("backend-cpu");
    group.throughput(Throughput::Elements(ROWS as u64));
    let mut product = Product::new(ROWS);
    group.bench_function(format!("product of {ROWS} rows, Q4_1, {INPUTS} to {OUTPUTS}, one thread"), |bencher| {
        bencher.iter(|| product.run());
    });
    group.finish();
}
