//! Micro-benchmarks of what runs once a step or a token on the host, and of the CPU's product; those of the cache are in its
//! own crate. Knows no private items.

mod cache;
mod counted;
mod product;
mod serving;
mod tokenization;

use std::hint::black_box;

use benches::draw_token_ids;
use criterion::{BatchSize, Criterion, criterion_group};
use sampling::{Scratch, TokenHistory, choose, score};
use serving_types::SamplingParams;

/// One token from the logits of a vocabulary of 49,152.
fn choice(criterion: &mut Criterion) {
    const VOCAB_SIZE: usize = 49_152;
    let logits: Vec<f32> = draw_token_ids(VOCAB_SIZE, 1 << 16, 2).iter().map(|id| *id as f32 / 4096.0).collect();
    let mut scratch = Scratch::new(VOCAB_SIZE);
    let mut group = criterion.benchmark_group("sampling");
    let sampled = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    for (name, params) in [
        ("greedy", SamplingParams::default()),
        ("temperature", sampled.clone()),
        ("top_k 50, top_p 0.9", SamplingParams { top_k: 50, top_p: 0.9, ..sampled }),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || logits.clone(),
                |logits| choose(logits, &params, &TokenHistory::default(), 0, &mut scratch),
                BatchSize::LargeInput,
            );
        });
    }
    let mut top = [(0, 0.0); 5];
    group.bench_function("score, top 5", |bencher| bencher.iter(|| score(black_box(&logits), 7, &mut top)));
    group.finish();
}

criterion_group!(
    benches,
    serving::scheduler,
    serving::engine,
    choice,
    tokenization::tokenization,
    product::backend_cpu
);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == "counted" => counted::run(rest),
        _ => {
            benches();
            Criterion::default().configure_from_args().final_summary();
        }
    }
}
