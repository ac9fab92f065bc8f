//! What is refused: configurations with an error, misuse with a panic that names it. And what is lost when nobody drains.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kv_paging::{
    BlockTable, CacheEvent, ConfigError, KvCache, KvCacheConfig, LogicalTime, MAX_BLOCKS, PrefixKeys, Salt, StepId,
    StepOutcome,
};

const CONFIG: KvCacheConfig = KvCacheConfig::new(8, 2);

/// A cache with a published block, held by a table of three tokens. Steps 0 to 4 are retired.
fn cache_with_table() -> (KvCache, BlockTable, PrefixKeys) {
    let mut cache = KvCache::new(CONFIG).expect("the configuration is sound");
    let mut keys = PrefixKeys::new(&Salt::default(), 2);
    keys.extend(&[1, 2, 3]);
    let mut table = cache.admit(&keys, keys.tokens()).table;
    cache.grow(&mut table, 3).expect("there is room");
    cache.promise(&table, &keys, 3, StepId(4));
    cache.retire(StepId(4), StepOutcome::Completed);
    (cache, table, keys)
}

#[test]
fn configurations() {
    let check = |num_blocks, block_size, expected| {
        let config = KvCacheConfig { num_blocks, block_size, ..CONFIG };
        assert_eq!(KvCache::new(config).err(), expected, "{num_blocks} blocks of {block_size}");
    };
    check(1, 1, None);
    check(1, 256, None);
    check(0, 16, Some(ConfigError::NumBlocks(0)));
    check(MAX_BLOCKS + 1, 16, Some(ConfigError::NumBlocks(MAX_BLOCKS + 1)));
    check(8, 0, Some(ConfigError::BlockSize(0)));
    check(8, 12, Some(ConfigError::BlockSize(12)));
    check(8, 512, Some(ConfigError::BlockSize(512)));
    let too_long_memory = KvCacheConfig { regret_window: MAX_BLOCKS + 1, ..CONFIG };
    assert_eq!(KvCache::new(too_long_memory).err(), Some(ConfigError::RegretWindow(MAX_BLOCKS + 1)));
    let too_many_pins = KvCacheConfig { max_pinned_blocks: 9, ..CONFIG };
    assert_eq!(KvCache::new(too_many_pins).err(), Some(ConfigError::MaxPinnedBlocks(9)));
}

#[test]
fn misuse_is_named() {
    let check = |message: &str, misuse: fn(&mut KvCache, BlockTable, PrefixKeys)| {
        let (mut cache, table, keys) = cache_with_table();
        let panic = catch_unwind(AssertUnwindSafe(|| misuse(&mut cache, table, keys))).expect_err(message);
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        assert!(text.is_some_and(|text| text.contains(message)), "{message:?} is not in {text:?}");
    };
    check("dropped without release", |cache, table, _| {
        drop(table);
        cache.check_invariants();
    });
    check("dropped without release", |cache, _, _| {
        drop(cache.pin(&PrefixKeys::new(&Salt::default(), 2)));
        cache.check_invariants();
    });
    check("time does not go back", |cache, _, _| {
        cache.advance(LogicalTime(2));
        cache.advance(LogicalTime(1));
    });
    check("another cache", |_, table, _| KvCache::new(CONFIG).unwrap().release(table, None));
    check("made for the cache's block size", |cache, _, _| {
        let _ = cache.matched_tokens(&PrefixKeys::new(&Salt::default(), 4), &[1, 2]);
    });
    check("the keys are those of the table's tokens", |cache, mut table, _| {
        let mut keys = PrefixKeys::new(&Salt::default(), 2);
        keys.extend(&[7, 7, 7, 7]);
        cache.grow(&mut table, 4).unwrap();
        cache.promise(&table, &keys, 4, StepId(5));
    });
    check("no more tokens than there are", |cache, table, keys| cache.promise(&table, &keys, 4, StepId(5)));
    check("no more tokens than there are", |cache, table, _| drop(cache.fork(&table, 4)));
    check("in step order", |cache, table, keys| {
        cache.promise(&table, &keys, 3, StepId(3));
    });
    check("once and in order", |cache, _, _| cache.retire(StepId(4), StepOutcome::Completed));
    check("a step with promises is retired before", |cache, mut table, mut keys| {
        keys.extend(&[4]);
        cache.grow(&mut table, 4).unwrap();
        cache.promise(&table, &keys, 4, StepId(5));
        cache.retire(StepId(6), StepOutcome::Completed);
    });
    check("a promised or published block is never cut", |cache, mut table, _| cache.truncate(&mut table, 1, None));
    check("a shared block is never cut", |cache, mut table, _| {
        cache.clear_prefix_cache();
        let _fork = cache.fork(&table, 2).unwrap();
        cache.truncate(&mut table, 1, None);
    });
}

#[test]
fn events_beyond_the_log_are_counted() {
    let (mut cache, table, _) = cache_with_table();
    cache.release(table, None);
    cache.record_events(1);
    cache.clear_prefix_cache();
    cache.clear_prefix_cache();
    cache.clear_prefix_cache();
    for expected in [&[CacheEvent::Cleared, CacheEvent::Lost { num_events: 2 }][..], &[]] {
        let mut num_events = 0;
        cache.drain_events(|event| {
            assert_eq!(event, expected[num_events]);
            num_events += 1;
        });
        assert_eq!(num_events, expected.len());
    }
}
