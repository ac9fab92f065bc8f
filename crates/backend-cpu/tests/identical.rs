//! The same bits from every instruction path and any number of threads, for stored weights and activations of any content:
//! random bytes, hence also denormal, huge, infinite and NaN scales and values.

use backend_cpu::{CpuBackend, CpuConfig, Instructions, Precision};
use model_format::TensorFormat;
use tensor_backend::{Backend, Element, GatedMatMul, MatMul, RmsNorm, RowOrder, WeightPart, WeightRole};

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

    /// The results of all ops, NaNs made equal.
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
        [product, gated, normed]
            .iter()
            .flat_map(|buffer| backend.read(buffer, 0..rows).unwrap())
            .map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() })
            .collect()
    }
}

fn check(case: &Case) {
    let reference = case.run(Instructions::Plain, 1);
    for instructions in Instructions::ALL.into_iter().filter(|path| path.available()) {
        for threads in [1, 2, 5] {
            let Case { format, precision, rows, k, n, wild } = *case;
            let same = case.run(instructions, threads) == reference;
            assert!(
                same,
                "{format}, {precision:?}, {rows} x {k} x {n}, wild {wild}: {instructions}, {threads} threads"
            );
        }
    }
}

#[test]
fn paths_and_threads_give_the_same_bits() {
    for format in TensorFormat::ALL {
        for wild in [false, true] {
            for (rows, k, n) in [(1, 512, 1100), (15, 256, 90), (2, 1536, 33), (67, 256, 17)] {
                check(&Case { format, precision: Precision::Native, rows, k, n, wild });
            }
            check(&Case { format, precision: Precision::Exact, rows: 19, k: 256, n: 70, wild });
        }
    }
}
