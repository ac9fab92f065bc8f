//! Checks of plain and gated products with weights of every format.

use model_format::TensorFormat;

use super::Options;
use super::fixture::{
    Expected, Random, StoredMatrix, activations, assert_close, assert_same, assert_within, buffer_of, load_weight,
    parameters, poisoned, read_poisoned,
};
use super::reference::{dot, rms_norm, silu};
use super::shapes::{PRODUCTS, ProductShape};
use crate::{Backend, GatedMatMul, MatMul, MatMulAddRmsNorm, RowOrder, WeightPart, WeightRole};

pub(super) fn tolerance(options: &Options, formats: &[TensorFormat]) -> f64 {
    let of_format = |format: &TensorFormat| match format {
        TensorFormat::BF16 => options.bfloat16_tolerance,
        _ if format.block_len() > 1 => options.quantised_tolerance,
        _ => options.float_tolerance,
    };
    formats.iter().map(of_format).fold(0.0, f64::max)
}

/// The dot product of activations and a weight's row, and the size of such a product of independent numbers: rounding
/// activations to so many bits makes an error in proportion to it, however small the sum.
pub(super) fn product(x: &[f32], row: &[f32]) -> Expected {
    Expected { value: dot(x, row), size: (dot(x, x) * dot(row, row) / x.len() as f64).sqrt() }
}

pub(super) fn multiply<B: Backend>(
    backend: &mut B,
    weight: &B::Weight,
    bias: Option<&B::Buffer>,
    x: &[f32],
    (rows, n): (usize, usize),
) -> Vec<f32> {
    let x = buffer_of(backend, x.len() / rows, x);
    let mut out = poisoned(backend, rows, n);
    backend.matmul(MatMul { x: &x, weight, bias, out: &mut out, rows }).expect("a product");
    read_poisoned(backend, &out, rows, "product")
}

pub(super) fn multiply_gated<B: Backend>(
    backend: &mut B,
    weight: &B::Weight,
    x: &[f32],
    (rows, n): (usize, usize),
) -> Vec<f32> {
    let x = buffer_of(backend, x.len() / rows, x);
    let mut out = poisoned(backend, rows, n);
    backend.gated_matmul(GatedMatMul { x: &x, weight, out: &mut out, rows }).expect("a gated product");
    read_poisoned(backend, &out, rows, "gated product")
}

/// Products of every format and shape, with and without bias; of parts of mixed formats and interleaved rows; each row as
/// alone; the planned size of each weight is the real one.
///
/// # Panics
/// If a check fails.
pub fn check_products<B: Backend>(backend: &mut B, options: &Options) {
    for &format in &options.formats {
        for shape in PRODUCTS {
            check_product(backend, options, &[format], shape, RowOrder::Natural);
        }
        check_product(backend, options, &[format], PRODUCTS[4], RowOrder::InterleavedHalves { head_dim: 16 });
        // 48 rows, 53 and 58: a backend with tiles may join the first two, and not the last.
        check_product(backend, options, &[format; 3], PRODUCTS[4], RowOrder::Natural);
        for &other in &options.formats {
            check_product(backend, options, &[format, format, other], PRODUCTS[5], RowOrder::Natural);
        }
    }
}

/// Ends of branches, of every format: the product is added to the residual stream, which is normed.
///
/// # Panics
/// If a check fails.
pub fn check_branch_ends<B: Backend>(backend: &mut B, options: &Options) {
    for &format in &options.formats {
        for (rows, k) in [(1, 256), (5, 512), (70, 256)] {
            check_branch_end(backend, options, format, (rows, k));
        }
    }
}

fn check_branch_end<B: Backend>(backend: &mut B, options: &Options, format: TensorFormat, (rows, k): (usize, usize)) {
    const HIDDEN: usize = 72;
    const EPS: f32 = 1e-5;
    let what = format!("end of a branch, {format:?}, {rows} x {k}");
    let mut random = Random::new((rows * 31 + k * 7) as u64);
    let stored = StoredMatrix::random(format, HIDDEN, k, &mut random);
    let weight = load_weight(backend, &what, &[stored.part()], WeightRole::Product);
    let x = activations(backend, rows * k, &mut random);
    let residual = activations(backend, rows * HIDDEN, &mut random);
    let norm = random.values(HIDDEN);
    let (x_buffer, norm_buffer) = (buffer_of(backend, k, &x), parameters(backend, HIDDEN, &norm));
    let mut residual_buffer = buffer_of(backend, HIDDEN, &residual);
    let (mut room, mut out) = (poisoned(backend, rows, HIDDEN), poisoned(backend, rows, HIDDEN));
    let op = MatMulAddRmsNorm {
        x: &x_buffer,
        weight: &weight,
        product: &mut room,
        residual: &mut residual_buffer,
        norm: &norm_buffer,
        eps: EPS,
        out: &mut out,
        rows,
    };
    backend.matmul_add_rms_norm(op).expect("the end of a branch");

    let sums = backend.read(&residual_buffer, 0..rows).expect("a read");
    let expected: Vec<Expected> = (0..rows * HIDDEN)
        .map(|i| {
            let of_product = product(&x[i / HIDDEN * k..][..k], stored.row(i % HIDDEN));
            let residual = f64::from(residual[i]);
            Expected { value: of_product.value + residual, size: of_product.size + residual.abs() }
        })
        .collect();
    assert_within(&what, &sums, &expected, tolerance(options, &[format]));
    // Of the sums as they are, so that the norm alone is judged.
    let normed = read_poisoned(backend, &out, rows, &what);
    let expected: Vec<f64> = sums.chunks_exact(HIDDEN).flat_map(|row| rms_norm(row, &norm, EPS)).collect();
    assert_close(&what, &normed, &expected, options.float_tolerance);
}

fn check_product<B: Backend>(
    backend: &mut B,
    options: &Options,
    formats: &[TensorFormat],
    shape: ProductShape,
    order: RowOrder,
) {
    let what = format!("product {formats:?}, {shape:?}, {order:?}");
    let block = formats.iter().map(|format| format.block_len()).max().unwrap_or(1);
    let (rows, k) = (shape.rows, shape.k.next_multiple_of(block));
    let mut random = Random::new((rows * 31 + k * 7 + shape.n) as u64);
    // Parts of different lengths, so that borders fall anywhere in a panel.
    let parts: Vec<StoredMatrix> = formats
        .iter()
        .enumerate()
        .map(|(index, &format)| StoredMatrix::random(format, shape.n + 5 * index, k, &mut random))
        .collect();
    let weight_parts: Vec<WeightPart<'_>> = parts.iter().map(|part| WeightPart { order, ..part.part() }).collect();
    let n: usize = parts.iter().map(|part| part.rows).sum();
    let x = activations(backend, rows * k, &mut random);
    let bias = random.values(n);
    let bias_buffer = parameters(backend, n, &bias);
    let tolerance = tolerance(options, formats);

    for role in [WeightRole::Product, WeightRole::TiedEmbedding] {
        let weight = load_weight(backend, &what, &weight_parts, role);
        let got = multiply(backend, &weight, None, &x, (rows, n));
        let with_bias = multiply(backend, &weight, Some(&bias_buffer), &x, (rows, n));
        let columns = || parts.iter().flat_map(|part| (0..part.rows).map(|row| part.row(order.stored_row(row))));
        let expected: Vec<Expected> =
            x.chunks_exact(k).flat_map(|x| columns().map(|column| product(x, column))).collect();
        assert_within(&what, &got, &expected, tolerance);
        let biased: Vec<Expected> = expected
            .iter()
            .enumerate()
            .map(|(i, sum)| Expected { value: sum.value + f64::from(bias[i % n]), ..*sum })
            .collect();
        assert_within(&format!("{what} with bias"), &with_bias, &biased, tolerance);
        for row in [0, rows / 2, rows - 1] {
            let alone = multiply(backend, &weight, None, &x[row * k..(row + 1) * k], (1, n));
            let in_batch = &got[row * n..(row + 1) * n];
            assert_same(&format!("{what}, row {row}"), in_batch, &alone, options.bitwise_rows, tolerance);
        }
    }
}

/// Gated products of every format and shape, and of a gate and an up projection of different formats.
///
/// # Panics
/// If a check fails.
pub fn check_gated_products<B: Backend>(backend: &mut B, options: &Options) {
    for &format in &options.formats {
        for shape in PRODUCTS {
            check_gated_product(backend, options, [format; 2], shape);
        }
        for &other in &options.formats {
            check_gated_product(backend, options, [format, other], PRODUCTS[5]);
        }
    }
}

fn check_gated_product<B: Backend>(
    backend: &mut B,
    options: &Options,
    formats: [TensorFormat; 2],
    shape: ProductShape,
) {
    let what = format!("gated product {formats:?}, {shape:?}");
    let block = formats[0].block_len().max(formats[1].block_len());
    let (rows, k, n) = (shape.rows, shape.k.next_multiple_of(block), shape.n);
    let mut random = Random::new((rows * 17 + k * 5 + n) as u64);
    let [gate, up] = formats.map(|format| StoredMatrix::random(format, n, k, &mut random));
    let parts = [gate.part(), up.part()];
    let weight = load_weight(backend, &what, &parts, WeightRole::GatedProduct);
    // Small activations, so that the gate is neither closed nor open.
    let small: Vec<f32> = random.values(rows * k).iter().map(|x| x / (k as f32).sqrt()).collect();
    let x = super::fixture::rounded(&small, backend.activation_element());
    let got = multiply_gated(backend, &weight, &x, (rows, n));
    let expected: Vec<Expected> = x
        .chunks_exact(k)
        .flat_map(|x| (0..n).map(|col| gated(&product(x, gate.row(col)), &product(x, up.row(col)))).collect::<Vec<_>>())
        .collect();
    let tolerance = tolerance(options, &formats);
    assert_within(&what, &got, &expected, tolerance);
    for row in [0, rows / 2, rows - 1] {
        let alone = multiply_gated(backend, &weight, &x[row * k..(row + 1) * k], (1, n));
        assert_same(&what, &got[row * n..(row + 1) * n], &alone, options.bitwise_rows, tolerance);
    }
}

/// `silu(gate) * up`, with the errors of both; the slope of silu is at most 1.1.
pub(super) fn gated(gate: &Expected, up: &Expected) -> Expected {
    let size = 1.1 * gate.size * (up.value.abs() + 0.1 * up.size) + silu(gate.value).abs() * up.size;
    Expected { value: silu(gate.value) * up.value, size }
}
