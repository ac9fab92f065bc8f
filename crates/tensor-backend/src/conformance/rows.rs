//! Checks of buffers, embeddings, gathered rows and norms.

use serving_types::RowSlot;

use super::Options;
use super::fixture::{
    Random, RowSpec, StoredMatrix, activations, assert_close, assert_same, buffer_of, input_limits, load_weight,
    parameters, poisoned, read_poisoned, sampler_limits, step_of,
};
use super::reference;
use super::shapes::ROW_WIDTHS;
use crate::{AddRmsNorm, Backend, Embed, GatherRows, InputLimits, LogitChoice, LogitJob, RmsNorm, WeightRole};

/// New buffers are zero; what is written is read, and only there.
///
/// # Panics
/// If a check fails.
pub fn check_buffers<B: Backend>(backend: &mut B, _options: &Options) {
    let element = backend.activation_element();
    for (rows, cols) in [(1, 1), (3, 7), (17, 64)] {
        let mut buffer = backend.alloc(rows, cols, element).expect("a buffer");
        let zeros = backend.read(&buffer, 0..rows).expect("a read");
        assert_eq!(zeros, vec![0.0; rows * cols], "a new buffer of {rows} x {cols}");
        let mut values = activations(backend, rows * cols, &mut Random::new(1));
        backend.write(&mut buffer, &values).expect("a write");
        assert_eq!(backend.read(&buffer, 0..rows).expect("a read"), values);
        values[..cols].fill(0.5);
        backend.write(&mut buffer, &values[..cols]).expect("a write");
        assert_eq!(backend.read(&buffer, 0..rows).expect("a read"), values, "a write of the leading row");
        let last = &values[(rows - 1) * cols..];
        assert_eq!(backend.read(&buffer, rows - 1..rows).expect("a read"), last);
    }
}

fn limits(max_tokens: usize) -> InputLimits {
    input_limits(max_tokens, 4, max_tokens)
}

/// Embeddings of every format, in both roles, are the exact stored values (rounded to the activation's element).
///
/// # Panics
/// If a check fails.
pub fn check_embeddings<B: Backend>(backend: &mut B, options: &Options) {
    const VOCAB: usize = 75;
    let sampler = backend.new_sampler(&sampler_limits(4, VOCAB)).expect("a sampler");
    for &format in &options.formats {
        for width in ROW_WIDTHS {
            let cols = width.next_multiple_of(format.block_len());
            let mut random = Random::new(cols as u64);
            let table = StoredMatrix::random(format, VOCAB, cols, &mut random);
            for role in [WeightRole::Embedding, WeightRole::TiedEmbedding] {
                let what = format!("embedding {format}, {cols} columns, {role:?}");
                let weight = load_weight(backend, &what, &[table.part()], role);
                let tokens: Vec<u32> = vec![0, 74, 31, 32, 33, 15, 16, 74, 1];
                let row = RowSpec { slot: 0, start: 0, tokens: tokens.clone(), blocks: vec![] };
                let mut inputs = backend.new_inputs(&limits(tokens.len())).expect("inputs");
                backend.upload(&mut inputs, &step_of(&[row], &[])).expect("an upload");
                let mut out = poisoned(backend, tokens.len(), cols);
                let op =
                    Embed { inputs: &inputs, sampler: &sampler, table: &weight, out: &mut out, rows: tokens.len() };
                backend.embed(op).expect("an embed");
                let got = read_poisoned(backend, &out, tokens.len(), &what);
                let expected: Vec<f32> = tokens.iter().flat_map(|&token| table.row(token as usize)).copied().collect();
                assert_eq!(got, super::fixture::rounded(&expected, backend.activation_element()), "{what}");
            }
        }
    }
}

/// Rows of logit jobs, for ranges of jobs.
///
/// # Panics
/// If a check fails.
pub fn check_gather<B: Backend>(backend: &mut B, _options: &Options) {
    let cols = 19;
    let tokens = 12;
    let x = activations(backend, tokens * cols, &mut Random::new(3));
    let buffer = buffer_of(backend, cols, &x);
    let job =
        |token_index| LogitJob { token_index, slot: RowSlot(1), choice: LogitChoice::Score { target: 0, num_top: 0 } };
    let indices = [0, 3, 4, 9, 11];
    let row = RowSpec { slot: 1, start: 0, tokens: vec![0; tokens], blocks: vec![] };
    let mut inputs = backend.new_inputs(&limits(tokens)).expect("inputs");
    backend.upload(&mut inputs, &step_of(&[row], &indices.map(job))).expect("an upload");
    for jobs in [0..5, 0..1, 2..4, 4..5, 3..3] {
        let what = format!("gather of jobs {jobs:?}");
        let mut out = poisoned(backend, jobs.len(), cols);
        let op = GatherRows { inputs: &inputs, jobs: jobs.clone(), x: &buffer, out: &mut out };
        backend.gather_rows(op).expect("a gather");
        let got = read_poisoned(backend, &out, jobs.len(), &what);
        let expected: Vec<f32> =
            indices[jobs].iter().flat_map(|&index| &x[index as usize * cols..][..cols]).copied().collect();
        assert_eq!(got, expected, "{what}");
    }
}

/// Norms of all widths, alone and after a residual sum, in a batch and alone.
///
/// # Panics
/// If a check fails.
pub fn check_norms<B: Backend>(backend: &mut B, options: &Options) {
    let eps = 1e-5;
    for cols in ROW_WIDTHS {
        for rows in [1, 2, 9] {
            let what = format!("norm of {rows} x {cols}");
            let mut random = Random::new((rows * cols) as u64);
            let x = activations(backend, rows * cols, &mut random);
            let residual = activations(backend, rows * cols, &mut random);
            let weight = random.values(cols);
            let x_buffer = buffer_of(backend, cols, &x);
            let weight_buffer = parameters(backend, cols, &weight);

            let mut out = poisoned(backend, rows, cols);
            let op = RmsNorm { x: &x_buffer, weight: &weight_buffer, eps, out: &mut out, rows };
            backend.rms_norm(op).expect("a norm");
            let got = read_poisoned(backend, &out, rows, &what);
            let expected: Vec<f64> =
                x.chunks_exact(cols).flat_map(|row| reference::rms_norm(row, &weight, eps)).collect();
            assert_close(&what, &got, &expected, options.float_tolerance);

            let what = format!("residual sum and {what}");
            let mut residual_buffer = buffer_of(backend, cols, &residual);
            let mut out = poisoned(backend, rows, cols);
            let op = AddRmsNorm {
                x: &x_buffer,
                residual: &mut residual_buffer,
                weight: &weight_buffer,
                eps,
                out: &mut out,
                rows,
            };
            backend.add_rms_norm(op).expect("a norm");
            let got = read_poisoned(backend, &out, rows, &what);
            let sums: Vec<f32> = x.iter().zip(&residual).map(|(x, residual)| x + residual).collect();
            let expected_sums: Vec<f64> = sums.iter().copied().map(f64::from).collect();
            let got_sums = backend.read(&residual_buffer, 0..rows).expect("a read");
            assert_close(&what, &got_sums, &expected_sums, options.float_tolerance);
            let expected: Vec<f64> =
                sums.chunks_exact(cols).flat_map(|row| reference::rms_norm(row, &weight, eps)).collect();
            assert_close(&what, &got, &expected, options.float_tolerance);

            let last = (rows - 1) * cols;
            let x_alone = buffer_of(backend, cols, &x[last..]);
            let mut residual_alone = buffer_of(backend, cols, &residual[last..]);
            let mut out = poisoned(backend, 1, cols);
            let op = AddRmsNorm {
                x: &x_alone,
                residual: &mut residual_alone,
                weight: &weight_buffer,
                eps,
                out: &mut out,
                rows: 1,
            };
            backend.add_rms_norm(op).expect("a norm");
            let alone = read_poisoned(backend, &out, 1, &what);
            assert_same(&what, &got[last..], &alone, options.bitwise_rows, options.float_tolerance);
        }
    }
}
