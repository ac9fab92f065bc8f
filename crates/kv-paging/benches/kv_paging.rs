//! What the cache costs: a block taken and given back, a long prompt admitted and released cold and fully cached, and the
//! hashing of keys.
//!
//! ```text
//! cargo bench -p kv-paging
//! ```
//!
//! What each must reach is in `xtask/src/bench/goals.rs`, by the names given here.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use kv_paging::{Admission, KvCache, KvCacheConfig, PrefixKeys, Salt, StepId, StepOutcome, TokenId};

const BLOCK_SIZE: u32 = 16;
const PROMPT_TOKENS: u32 = 4096;
const NUM_BLOCKS: u32 = 16 * 1024;

fn cache() -> KvCache {
    KvCache::new(KvCacheConfig::new(NUM_BLOCKS, BLOCK_SIZE)).expect("the configuration is sound")
}

/// Keys of a prompt that differs from all others from its first token on.
fn keys_of(prompt: u32) -> PrefixKeys {
    let mut keys = PrefixKeys::new(&Salt::default(), BLOCK_SIZE);
    let tokens: Vec<TokenId> =
        (0..PROMPT_TOKENS).map(|position| prompt.wrapping_mul(PROMPT_TOKENS) + position).collect();
    keys.extend(&tokens);
    keys
}

/// The life of a request that samples nothing: admit, make room, promise, retire, release.
fn serve(cache: &mut KvCache, keys: &PrefixKeys, step: &mut u64) -> u32 {
    let Admission { mut table, num_cached_tokens } = cache.admit(keys, keys.tokens());
    cache.grow(&mut table, PROMPT_TOKENS).expect("the pool holds a prompt");
    cache.promise(&table, keys, PROMPT_TOKENS, StepId(*step));
    cache.retire(StepId(*step), StepOutcome::Completed);
    *step += 1;
    cache.release(table, None);
    num_cached_tokens
}

fn take_and_give(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kv-paging");
    let mut cache = cache();
    let keys = PrefixKeys::new(&Salt::default(), BLOCK_SIZE);
    let mut table = cache.admit(&keys, &[]).table;
    group.bench_function("take+give of a block", |bencher| {
        bencher.iter(|| {
            cache.grow(&mut table, black_box(1)).expect("a block is free");
            cache.truncate(&mut table, 0, None);
        });
    });
    cache.release(table, None);
    group.finish();
}

fn admit_and_release(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kv-paging");
    // Cold in a full pool: 128 prompts take turns in room for 64, so each evicts another one's blocks.
    let prompts: Vec<PrefixKeys> = (0..128).map(keys_of).collect();
    let mut cold = cache();
    let (mut next, mut step) = (0, 0);
    let mut serve_next = |cold: &mut KvCache| {
        next = (next + 1) % prompts.len();
        assert_eq!(serve(cold, &prompts[next], &mut step), 0, "nothing is cached");
    };
    prompts.iter().for_each(|_| serve_next(&mut cold));
    group.bench_function("admit+promise+release 4,096 tokens, cold, evicting", |bencher| {
        bencher.iter(|| serve_next(&mut cold));
    });

    group.bench_function("admit+release 4,096 tokens, cold", |bencher| {
        let mut cache = cache();
        bencher.iter(|| {
            let Admission { mut table, .. } = cache.admit(&prompts[0], prompts[0].tokens());
            cache.grow(&mut table, PROMPT_TOKENS).expect("the pool holds a prompt");
            cache.release(table, None);
        });
    });

    // All but the last block, which is never matched, is cached.
    let mut warm = cache();
    let mut step = 0;
    for keys in &prompts[..32] {
        serve(&mut warm, keys, &mut step);
    }
    let mut next = 0;
    group.bench_function("admit+release 4,096 tokens, full hit", |bencher| {
        bencher.iter(|| {
            next = (next + 1) % 32;
            let keys = &prompts[next];
            let Admission { mut table, num_cached_tokens } = warm.admit(keys, keys.tokens());
            assert_eq!(num_cached_tokens, PROMPT_TOKENS - BLOCK_SIZE);
            warm.grow(&mut table, PROMPT_TOKENS).expect("one more block");
            warm.release(table, None);
        });
    });
    group.finish();
}

fn key_hashing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("kv-paging");
    let tokens: Vec<TokenId> = (0..PROMPT_TOKENS).collect();
    group.throughput(Throughput::Elements(u64::from(PROMPT_TOKENS)));
    for block_size in [1, 16, 256] {
        group.bench_function(format!("hash 4,096 tokens in blocks of {block_size}"), |bencher| {
            bencher.iter_batched_ref(
                || PrefixKeys::with_capacity(&Salt::default(), block_size, PROMPT_TOKENS),
                |keys| keys.extend(&tokens).len(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_secs(1));
    targets = take_and_give, admit_and_release, key_hashing
}
criterion_main!(benches);
