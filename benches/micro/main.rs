//! Micro-benchmarks of what runs once a step or a token on the host. Knows no private items.

mod serving;

use std::hint::black_box;

use benches::draw_token_ids;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kv_paging::{KvCache, KvCacheConfig, PrefixCaching, PrefixKeys, Salt, StepId, StepOutcome};
use sampling::{Scratch, TokenHistory, choose, score};
use serving_types::SamplingParams;

const BLOCK_SIZE: u32 = 16;

fn prompt(num_tokens: usize) -> (Vec<u32>, PrefixKeys) {
    let tokens = draw_token_ids(num_tokens, 32_000, 1);
    let mut keys = PrefixKeys::new(&Salt::default(), BLOCK_SIZE);
    keys.extend(&tokens);
    (tokens, keys)
}

/// A request's life in the cache, whose prompt of 1,024 tokens is found there or not.
fn kv_cache(criterion: &mut Criterion) {
    let (tokens, keys) = prompt(1024);
    let mut group = criterion.benchmark_group("kv-paging");
    group.throughput(Throughput::Elements(u64::from(keys.num_blocks())));
    group.bench_function("hash 1,024 tokens", |bencher| bencher.iter(|| prompt(black_box(1024))));
    for (name, prefix_caching) in [("hit", PrefixCaching::On), ("miss", PrefixCaching::Off)] {
        let config = KvCacheConfig { prefix_caching, ..KvCacheConfig::new(4096, BLOCK_SIZE) };
        let mut cache = KvCache::new(config).expect("a valid configuration");
        let mut step = 0;
        group.bench_function(format!("admit, grow, promise, release 1,024 tokens: {name}"), |bencher| {
            bencher.iter(|| {
                step += 1;
                let mut table = cache.admit(&keys, &tokens).table;
                cache.grow(&mut table, keys.num_tokens()).expect("the pool is larger");
                cache.promise(&table, &keys, keys.num_tokens(), StepId(step));
                cache.retire(StepId(step), StepOutcome::Completed);
                cache.release(table, None);
            });
        });
    }
    group.finish();
}

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

criterion_group!(benches, kv_cache, serving::scheduler, serving::engine, choice);
criterion_main!(benches);
