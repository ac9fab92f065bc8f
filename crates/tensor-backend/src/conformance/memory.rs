//! Checks that memory is taken as it was planned, and that products with reserved scratch take none.

use super::Options;
use super::fixture::{Random, StoredMatrix, buffer_of, input_limits, load_weight, measured, poisoned, sampler_limits};
use crate::{Backend, Element, GatedMatMul, InputLimits, KvLayout, MatMul, WeightRole};

/// Buffers, KV pools, step inputs, samplers and samples take the bytes that were planned; products of every format take
/// none once the scratch that was planned for them is reserved. (The sizes of weights are checked wherever one is loaded.)
///
/// # Panics
/// If a check fails.
pub fn check_memory<B: Backend>(backend: &mut B, options: &Options) {
    for element in [Element::F32, backend.activation_element()] {
        let planned = (7 * 33 * element.bytes()) as u64;
        measured(backend, "a buffer", planned, |backend| backend.alloc(7, 33, element));
    }
    for &element in &options.kv_elements {
        let layout = KvLayout { num_layers: 3, num_blocks: 5, block_size: 7, num_kv_heads: 3, head_dim: 10, element };
        measured(backend, "a KV pool", layout.total_bytes(), |backend| backend.alloc_kv(&layout));
        measured(backend, "the host's KV pool", 0, |backend| backend.alloc_host_kv(&layout));
    }
    for (max_tokens, max_slots, max_blocks_per_slot, max_jobs) in [(1, 1, 1, 1), (100, 7, 33, 107), (3, 64, 1, 5)] {
        let limits = InputLimits { max_blocks_per_slot, ..input_limits(max_tokens, max_slots, max_jobs) };
        let planned = backend.planned_inputs_bytes(&limits);
        measured(backend, "step inputs", planned, |backend| backend.new_inputs(&limits));
    }
    for (slots, vocab_size) in [(1, 3), (64, 1001)] {
        let limits = sampler_limits(slots, vocab_size);
        let planned = backend.planned_sampler_bytes(&limits);
        measured(backend, "a sampler", planned, |backend| backend.new_sampler(&limits));
    }
    for (max_jobs, max_top) in [(1, 0), (70, 20)] {
        let planned = backend.planned_samples_bytes(max_jobs, max_top);
        measured(backend, "samples", planned, |backend| backend.new_samples(max_jobs, max_top));
    }
    check_scratch(backend, options);
}

fn check_scratch<B: Backend>(backend: &mut B, options: &Options) {
    let (k, n) = (256, 20);
    // Each case needs more rows than those before, so that what they left is not enough.
    let cases = options.formats.iter().flat_map(|&format| [(format, false), (format, true)]);
    for (rows, (format, is_gated)) in (1..).step_by(9).zip(cases) {
        let what = format!("{rows} rows, {format}, gated {is_gated}");
        let mut random = Random::new(rows as u64);
        let [first, second] = [0; 2].map(|_| StoredMatrix::random(format, n, k, &mut random));
        let parts = [first.part(), second.part()];
        let role = if is_gated { WeightRole::GatedProduct } else { WeightRole::Product };
        let planned = backend.planned_scratch_bytes(&parts, role, rows);
        backend.reserve_scratch(planned).expect("scratch");
        let weight = load_weight(backend, &what, &parts, role);
        let x = buffer_of(backend, k, &random.values(rows * k));
        let mut out = poisoned(backend, rows, if is_gated { n } else { 2 * n });
        measured(backend, &what, 0, |backend| {
            if is_gated {
                backend.gated_matmul(GatedMatMul { x: &x, weight: &weight, out: &mut out, rows })
            } else {
                backend.matmul(MatMul { x: &x, weight: &weight, bias: None, out: &mut out, rows })
            }
        });
    }
}
