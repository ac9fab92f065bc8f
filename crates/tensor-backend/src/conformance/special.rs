//! Checks of products with what lies at the edge of a format: zeros, huge and denormal numbers, infinities and NaN, in rows
//! of activations and in blocks of weights.

use model_format::TensorFormat;

use super::Options;
use super::fixture::{Expected, Random, StoredMatrix, activations, assert_same, assert_within, load_weight};
use super::products::{gated, multiply, multiply_gated, product, tolerance};
use crate::{Backend, Element, WeightRole};

/// Rows of zeros, of huge and of tiny values, and a row with a NaN or an infinity, which spoils itself and no other.
///
/// # Panics
/// If a check fails.
pub fn check_special_values<B: Backend>(backend: &mut B, options: &Options) {
    let (k, n) = (256, 20);
    for &format in &options.formats {
        let what = format!("product {format} of special values");
        let weight = StoredMatrix::random(format, n, k, &mut Random::new(5));
        let loaded = backend.load_weight(&[weight.part()], WeightRole::Product).expect("a weight");
        let ordinary = activations(backend, k, &mut Random::new(6));
        let scaled = |factor: f32| -> Vec<f32> { ordinary.iter().map(|x| x * factor).collect() };
        let mut with_nan = ordinary.clone();
        with_nan[70] = f32::NAN;
        let mut with_infinity = ordinary.clone();
        with_infinity[255] = f32::INFINITY;
        // Half precision ends at 65504, and its smallest normal number is 6e-5.
        let mut finite = vec![vec![0.0; k], ordinary.clone(), scaled(1024.0), scaled(1.0 / 1024.0)];
        if backend.activation_element() == Element::F32 {
            finite.extend([2.0_f32.powi(80), 2.0_f32.powi(-60)].map(scaled));
        }
        let spoiled_row = finite.len();
        for spoiled in [with_nan, with_infinity] {
            let x = [finite.concat(), spoiled].concat();
            let got = multiply(backend, &loaded, None, &x, (spoiled_row + 1, n));
            for (row, x) in finite.iter().enumerate() {
                let expected: Vec<Expected> =
                    (0..n).map(|col| product_above_floor(options, format, x, weight.row(col))).collect();
                let got = &got[row * n..(row + 1) * n];
                assert_within(&format!("{what}, row {row}"), got, &expected, tolerance(options, &[format]));
            }
            assert!(
                got[spoiled_row * n..].iter().all(|value| !value.is_finite()),
                "{what}: the spoiled row is {:?}",
                &got[spoiled_row * n..]
            );
        }
        let zero = StoredMatrix {
            bytes: model_format::quantize(format, &vec![0.0; n * k]),
            values: vec![0.0; n * k],
            ..StoredMatrix::random(format, n, k, &mut Random::new(5))
        };
        let loaded = backend.load_weight(&[zero.part()], WeightRole::Product).expect("a weight");
        let got = multiply(backend, &loaded, None, &ordinary, (1, n));
        assert!(got.iter().all(|&value| value == 0.0), "{what}: zero weights");
    }
}

/// As [`product`], with as much more room as elements that count as zeros may take.
fn product_above_floor(options: &Options, format: TensorFormat, x: &[f32], row: &[f32]) -> Expected {
    let product = product(x, row);
    if format != TensorFormat::BF16 {
        return product;
    }
    let sizes = x.iter().chain(row).map(|value| f64::from(value.abs())).sum::<f64>();
    Expected { size: product.size + options.bfloat16_floor * sizes / options.bfloat16_tolerance, ..product }
}

/// What becomes of a row of a stored matrix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Special {
    /// Every stored byte is zero.
    Zero,
    /// All scales are the largest that the format has.
    Huge,
    /// All scales are below the normal numbers.
    Denormal,
    /// One block's scales are NaN.
    Nan,
    /// One block's scales are infinite.
    Infinite,
}

/// Rows of such a matrix, among them neighbours within a vector and at its borders. The others are ordinary.
const SPECIAL_ROWS: [(usize, Special); 11] = [
    (0, Special::Nan),
    (5, Special::Huge),
    (6, Special::Zero),
    (7, Special::Infinite),
    (8, Special::Denormal),
    (15, Special::Infinite),
    (16, Special::Denormal),
    (17, Special::Nan),
    (31, Special::Huge),
    (32, Special::Nan),
    (36, Special::Infinite),
];

/// Where the half-precision scales lie in a stored block. Floats have none.
fn scales_of(format: TensorFormat) -> &'static [usize] {
    match format {
        TensorFormat::F32 | TensorFormat::F16 | TensorFormat::BF16 => &[],
        TensorFormat::Q4_0 | TensorFormat::Q5_0 | TensorFormat::Q8_0 => &[0],
        TensorFormat::Q4_1 | TensorFormat::Q5_1 | TensorFormat::Q4K | TensorFormat::Q5K => &[0, 2],
        TensorFormat::Q6K => &[208],
    }
}

impl Special {
    fn is_finite(self) -> bool {
        !matches!(self, Self::Nan | Self::Infinite)
    }

    /// The bits of a half-precision scale.
    fn scale(self) -> u16 {
        match self {
            Self::Zero => 0,
            Self::Huge => 0x7BFF,
            Self::Denormal => 0x0155,
            Self::Nan => 0x7E00,
            Self::Infinite => 0xFC00,
        }
    }

    /// What an element of a float format becomes.
    fn float(self, format: TensorFormat, ordinary: f32) -> f32 {
        let (largest, smallest) =
            if format == TensorFormat::F16 { (65504.0, 2.0_f32.powi(-14)) } else { (f32::MAX, f32::MIN_POSITIVE) };
        match self {
            Self::Zero => 0.0,
            // Ordinary values are below 4.
            Self::Huge => largest * (ordinary / 4.0),
            Self::Denormal => smallest * (ordinary / 4.0),
            Self::Nan => f32::NAN,
            Self::Infinite => f32::NEG_INFINITY,
        }
    }

    fn write(self, matrix: &mut StoredMatrix, row: usize) {
        let (format, block_bytes) = (matrix.format, matrix.format.block_bytes());
        let num_blocks = matrix.cols / format.block_len();
        // What is finite shows only if the whole row is so; what is not must spoil the row from a single block.
        let blocks = if self.is_finite() { 0..num_blocks } else { row % num_blocks..row % num_blocks + 1 };
        for block in blocks.map(|block| row * num_blocks + block) {
            let bytes = &mut matrix.bytes[block * block_bytes..][..block_bytes];
            let scales = scales_of(format);
            if scales.is_empty() {
                let element = self.float(format, matrix.values[block]);
                bytes.copy_from_slice(&model_format::quantize(format, &[element]));
            } else if self == Self::Zero {
                bytes.fill(0);
            } else {
                for &at in scales {
                    bytes[at..at + 2].copy_from_slice(&self.scale().to_le_bytes());
                }
            }
        }
    }
}

/// Outputs of a product with special rows.
const N: usize = 37;

/// Weights with blocks of zeros, of the largest and of denormal scales, whose products are as close as any; and with blocks
/// whose scales are NaN or infinite, which spoil the output that they belong to and no other.
///
/// # Panics
/// If a check fails.
pub fn check_special_blocks<B: Backend>(backend: &mut B, options: &Options) {
    const ROWS: usize = 9;
    const K: usize = 512;
    for &format in &options.formats {
        let ordinary = StoredMatrix::random(format, N, K, &mut Random::new(11));
        let mut special = StoredMatrix::random(format, N, K, &mut Random::new(11));
        for (row, kind) in SPECIAL_ROWS {
            kind.write(&mut special, row);
        }
        model_format::dequantize(format, &special.bytes, &mut special.values);
        // Small, so that sums of the largest numbers are still finite.
        let x: Vec<f32> = activations(backend, ROWS * K, &mut Random::new(12)).iter().map(|x| x / 1024.0).collect();
        let expected = |of_row: &dyn Fn(&[f32], usize) -> Expected| -> Vec<Expected> {
            x.chunks_exact(K).flat_map(|x| (0..N).map(|col| of_row(x, col)).collect::<Vec<_>>()).collect()
        };
        let tolerance = tolerance(options, &[format]);

        let [got, of_ordinary] = [&special, &ordinary].map(|matrix| {
            let weight = load_weight(backend, "special blocks", &[matrix.part()], WeightRole::Product);
            multiply(backend, &weight, None, &x, (ROWS, N))
        });
        let what = format!("product of special blocks of {format}");
        let product = |x: &[f32], row: &[f32]| product_above_floor(options, format, x, row);
        let products = expected(&|x, col| product(x, special.row(col)));
        judge_outputs(&what, [&got, &of_ordinary], &products, tolerance, options);

        let mut run = |gate: &StoredMatrix, up: &StoredMatrix| {
            let weight = load_weight(backend, "special blocks", &[gate.part(), up.part()], WeightRole::GatedProduct);
            multiply_gated(backend, &weight, &x, (ROWS, N))
        };
        let of_ordinary = run(&ordinary, &ordinary);
        for (what, gate, up) in [("gate", &special, &ordinary), ("up", &ordinary, &special)] {
            let what = format!("gated product, its {what} of special blocks of {format}");
            let products = expected(&|x, col| gated(&product(x, gate.row(col)), &product(x, up.row(col))));
            judge_outputs(&what, [&run(gate, up), &of_ordinary], &products, tolerance, options);
        }
    }
}

/// Judges results of a matrix with special rows by their kind, and those of its ordinary rows by what they are without the
/// others.
fn judge_outputs(
    what: &str,
    [got, of_ordinary]: [&[f32]; 2],
    expected: &[Expected],
    tolerance: f64,
    options: &Options,
) {
    for index in 0..got.len() {
        let what = format!("{what}, row {}, output {}", index / N, index % N);
        let element = index..index + 1;
        match SPECIAL_ROWS.iter().find(|(special, _)| *special == index % N).map(|(_, kind)| *kind) {
            None => {
                assert_same(&what, &got[element.clone()], &of_ordinary[element], options.bitwise_rows, tolerance);
            }
            Some(kind) if kind.is_finite() => {
                assert_within(&format!("{what}, {kind:?}"), &got[element.clone()], &expected[element], tolerance);
            }
            Some(kind) => assert!(!got[index].is_finite(), "{what}: {kind:?} became {}", got[index]),
        }
    }
}
