//! The sampling op, which may spoil the logits that it is given: they are written anew before each sample. Knows no other op.

use anyhow::Result;
use serving_types::{RowSlot, SamplingParams};
use tensor_backend::{Backend, Element, Sample, SamplerLimits, SlotHistory};

use crate::bench::Bench;
use crate::case::Choice;
use crate::cost::AttentionRow;
use crate::model::Model;
use crate::stored::normal;
use crate::timing::{Times, measure as measure_times};
use crate::tokens::Tokens;

/// Bytes of logits that a sample works on, in buffers that are used once in it.
const LOGIT_BYTES: usize = 1 << 25;

/// Most buffers.
const MAX_BUFFERS: usize = 64;

/// Most rows that are sampled at once.
const MAX_JOBS: usize = 64;

/// How far logits lie apart.
const DEVIATION: f32 = 3.0;

pub(crate) fn measure<B: Backend>(
    bench: &mut Bench<'_, B>,
    model: &Model,
    choice: Choice,
    rows: usize,
) -> Result<Times> {
    let decodes = vec![AttentionRow { before: 0, new: 1 }; rows];
    let tokens = Tokens::upload(bench.backend, model, &decodes, &mut bench.random)?;
    let mut sampler = sampler(bench.backend, model, rows)?;
    for slot in 0..rows as u32 {
        let history = SlotHistory { tokens: &[], num_prompt_tokens: 0 };
        bench.backend.open_slot(&mut sampler, RowSlot(slot), &params(choice), history)?;
    }
    let mut samples = bench.backend.new_samples(rows, 0)?;
    let num_buffers = (LOGIT_BYTES / (4 * rows * model.vocab)).clamp(1, MAX_BUFFERS);
    let values = normal(rows * model.vocab, DEVIATION, &mut bench.random);
    let mut logits = (0..num_buffers)
        .map(|_| bench.backend.alloc(rows, model.vocab, Element::F32))
        .collect::<Result<Vec<_>, B::Error>>()?;
    measure_times(bench.settings.effort, num_buffers, |calls| {
        for logits in &mut logits[..calls] {
            bench.backend.write(logits, &values)?;
        }
        bench.wait()?;
        bench.timed(0..calls, &mut |backend, number| {
            backend.sample(Sample {
                inputs: &tokens.inputs,
                jobs: 0..rows,
                logits: &mut logits[number],
                sampler: &mut sampler,
                samples: &mut samples,
            })
        })
    })
}

fn params(choice: Choice) -> SamplingParams {
    match choice {
        Choice::Greedy => SamplingParams::default(),
        Choice::Drawn => SamplingParams { temperature: 1.0, top_k: 50, top_p: 0.9, ..SamplingParams::default() },
    }
}

/// Sampling state of so many slots.
pub(crate) fn sampler<B: Backend>(backend: &mut B, model: &Model, num_slots: usize) -> Result<B::Sampler> {
    let limits = SamplerLimits {
        max_slots: num_slots,
        vocab_size: model.vocab,
        max_context_len: 1024,
        max_jobs_at_once: num_slots.min(MAX_JOBS),
    };
    Ok(backend.new_sampler(&limits)?)
}
