//! Rows by index: embeddings of tokens, and activations of logit jobs. Knows no arithmetic.

use tensor_backend::{Embed, GatherRows};

use crate::CpuBackend;

pub(crate) fn embed(op: Embed<'_, CpuBackend>) {
    let step = op.inputs.step();
    assert_eq!(op.rows, step.num_tokens());
    let cols = op.table.cols();
    assert_eq!(op.out.cols(), cols);
    let mut fed = step.fed.iter().peekable();
    let tokens = step.token_ids.iter().enumerate();
    for ((index, &token), out) in tokens.zip(op.out.rows_mut(0..op.rows).chunks_exact_mut(cols)) {
        let token = match fed.next_if(|(at, _)| *at as usize == index) {
            Some(&(_, slot)) => op.sampler.last_sampled(slot),
            None => token,
        };
        assert!((token as usize) < op.table.rows(), "token {token} of a vocabulary of {}", op.table.rows());
        op.table.row(token as usize, out);
    }
}

pub(crate) fn gather_rows(op: GatherRows<'_, CpuBackend>) {
    let cols = op.x.cols();
    assert_eq!(op.out.cols(), cols);
    let jobs = &op.inputs.step().jobs[op.jobs];
    for (job, out) in jobs.iter().zip(op.out.rows_mut(0..jobs.len()).chunks_exact_mut(cols)) {
        out.copy_from_slice(op.x.row(job.token_index as usize));
    }
}
