//! Products of drawn shapes, formats and contents. Every path gives the same bits, and a row the same alone as in a batch;
//! what is finite lies within a bound of float64 arithmetic that follows from how activations are quantised and sums are
//! rounded; what is not finite spoils its own row or its own output and nothing else.

mod bound;
mod case;

use std::cell::RefCell;

use backend_cpu::{CpuBackend, CpuConfig, Instructions, Precision};
use proptest::prelude::Strategy;
use proptest::proptest;
use proptest::test_runner::{Config, RngSeed};
use tensor_backend::{Backend, Element, MatMul, RowOrder, WeightPart, WeightRole};

use bound::{Reference, Verdict};
use case::Case;

fn fixed_seed(cases: u32) -> Config {
    Config { cases, rng_seed: RngSeed::Fixed(0x5EED), failure_persistence: None, ..Config::default() }
}

/// A backend of every path that this machine has, the plain one first.
fn backends(precision: Precision) -> Vec<CpuBackend> {
    let config = CpuConfig { threads: Some(2), precision };
    let paths = Instructions::ALL.into_iter().filter(|path| path.available());
    paths.map(|path| CpuBackend::with_instructions(config, path).expect("threads")).collect()
}

/// The product of some rows with the case's weights.
fn multiply(backend: &mut CpuBackend, case: &Case, weights: &[u8], x: &[f32]) -> Vec<f32> {
    let Case { format, n, k, .. } = *case;
    let part = WeightPart { bytes: weights, format, rows: n, cols: k, order: RowOrder::Natural };
    let weight = backend.load_weight(&[part], WeightRole::Product).expect("memory");
    let rows = x.len() / k;
    let mut input = backend.alloc(rows, k, Element::F32).expect("memory");
    backend.write(&mut input, x).expect("written");
    let mut out = backend.alloc(rows, n, Element::F32).expect("memory");
    backend.matmul(MatMul { x: &input, weight: &weight, bias: None, out: &mut out, rows }).expect("a product");
    backend.read(&out, 0..rows).expect("read")
}

/// Bits, NaNs made equal.
fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}

fn check(backends: &mut [CpuBackend], case: &Case) {
    let (weights, x) = (case.weights(), case.activations());
    let alone = case.seed as usize % case.rows;
    let of_plain = multiply(&mut backends[0], case, &weights, &x);
    for backend in backends {
        let got = multiply(backend, case, &weights, &x);
        assert_eq!(bits(&got), bits(&of_plain), "{}", backend.describe());
        let row = multiply(backend, case, &weights, &x[alone * case.k..][..case.k]);
        assert_eq!(bits(&row), bits(&got[alone * case.n..][..case.n]), "{}: row {alone} alone", backend.describe());
    }
    let reference = Reference::new(case, &weights, &x);
    for (index, &got) in of_plain.iter().enumerate() {
        let (row, output) = (index / case.n, index % case.n);
        match reference.verdict(row, output) {
            Verdict::Spoiled => assert!(!got.is_finite(), "row {row}, output {output} is {got}"),
            Verdict::Within { value, error } => {
                let off = (f64::from(got) - value).abs();
                assert!(off <= error, "row {row}, output {output} is {got}, not {value}: {off:e} of {error:e}");
            }
            Verdict::TooLarge => {}
        }
    }
}

#[test]
fn products_have_one_result_and_it_is_close() {
    let native = RefCell::new(backends(Precision::Native));
    proptest!(fixed_seed(2000), |(case in case::cases())| check(&mut native.borrow_mut(), &case));
}

#[test]
fn exact_products_have_one_result_and_it_is_close() {
    let exact = RefCell::new(backends(Precision::Exact));
    let cases = case::cases().prop_map(Case::exact);
    proptest!(fixed_seed(500), |(case in cases)| check(&mut exact.borrow_mut(), &case));
}
