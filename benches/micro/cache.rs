//! What the cache's own benchmarks do, a given number of times. Knows no clock.

use std::hint::black_box;

use kv_paging::{Admission, KvCache, KvCacheConfig, PrefixKeys, Salt, StepId, StepOutcome, TokenId};

const BLOCK_SIZE: u32 = 16;
const PROMPT_TOKENS: u32 = 4096;
/// Room for two prompts.
const NUM_BLOCKS: u32 = 512;

fn cache() -> KvCache {
    KvCache::new(KvCacheConfig::new(NUM_BLOCKS, BLOCK_SIZE)).expect("the configuration is sound")
}

/// Keys of a prompt that differs from all others from its first token on.
fn keys_of(prompt: u32) -> PrefixKeys {
    let mut keys = PrefixKeys::new(&Salt::default(), BLOCK_SIZE);
    let first = prompt * PROMPT_TOKENS;
    keys.extend(&(first..first + PROMPT_TOKENS).collect::<Vec<TokenId>>());
    keys
}

/// The life of a request that samples nothing. Returns how many of its tokens were cached.
fn serve(cache: &mut KvCache, keys: &PrefixKeys, step: u64) -> u32 {
    let Admission { mut table, num_cached_tokens } = cache.admit(keys, keys.tokens());
    cache.grow(&mut table, PROMPT_TOKENS).expect("the pool holds a prompt");
    cache.promise(&table, keys, PROMPT_TOKENS, StepId(step));
    cache.retire(StepId(step), StepOutcome::Completed);
    cache.release(table, None);
    num_cached_tokens
}

/// A block is taken and given back.
pub(crate) fn take_and_give(num_times: u64) {
    let mut cache = cache();
    let mut table = cache.admit(&PrefixKeys::new(&Salt::default(), BLOCK_SIZE), &[]).table;
    for _ in 0..num_times {
        cache.grow(&mut table, black_box(1)).expect("a block is free");
        cache.truncate(&mut table, 0, None);
    }
    cache.release(table, None);
}

/// Three prompts take turns in room for two, so each evicts another one's blocks.
pub(crate) fn admit_evicting(num_times: u64) {
    let (mut cache, prompts) = (cache(), [0, 1, 2].map(keys_of));
    for (step, keys) in (0..num_times + 3).zip(prompts.iter().cycle()) {
        assert_eq!(serve(&mut cache, keys, step), 0, "nothing is cached");
    }
}

/// A prompt of which all but the last block, which is never matched, is cached.
pub(crate) fn admit_cached(num_times: u64) {
    let (mut cache, keys) = (cache(), keys_of(0));
    for step in 0..=num_times {
        let num_cached = serve(&mut cache, &keys, step);
        assert!(step == 0 || num_cached == PROMPT_TOKENS - BLOCK_SIZE, "{num_cached} tokens are cached");
    }
}

/// The keys of a prompt.
pub(crate) fn hash(num_times: u64) {
    let tokens: Vec<TokenId> = (0..PROMPT_TOKENS).collect();
    for _ in 0..num_times {
        let mut keys = PrefixKeys::with_capacity(&Salt::default(), BLOCK_SIZE, PROMPT_TOKENS);
        black_box(keys.extend(black_box(&tokens)));
    }
}
