//! What the figures of a small pool under pressure come to.

use kv_paging::{Admission, KvCache, KvCacheConfig, PrefixKeys, Salt, StepId, StepOutcome};

/// Serves prompts of one block and one token, each of its own content, one a step, and returns the next step.
fn serve(cache: &mut KvCache, prompts: std::ops::Range<u32>, first_step: u64) -> u64 {
    for (step, prompt) in (first_step..).map(StepId).zip(prompts.clone()) {
        let mut keys = PrefixKeys::new(&Salt::default(), 2);
        keys.extend(&[prompt, prompt, 0]);
        let Admission { mut table, .. } = cache.admit(&keys, keys.tokens());
        cache.grow(&mut table, 3).expect("the pool holds a prompt");
        assert_eq!(cache.usage().empty_slots, 1, "three tokens in two blocks of two");
        cache.promise(&table, &keys, 3, step);
        cache.retire(step, StepOutcome::Completed);
        cache.release(table, None);
    }
    first_step + u64::from(prompts.end - prompts.start)
}

#[test]
fn regret_counts_what_was_evicted_too_soon() {
    // The pool has 16 blocks, of which one is the last token's. Served twice, so many prompts, with this memory:
    let check = |num_prompts: u32, regret_window: u32, clear: bool, expect_regret: bool| {
        let mut cache = KvCache::new(KvCacheConfig { regret_window, ..KvCacheConfig::new(16, 2) }).expect("sound");
        let step = serve(&mut cache, 0..num_prompts, 0);
        if clear {
            cache.clear_prefix_cache();
        }
        serve(&mut cache, 0..num_prompts, step);
        let stats = cache.stats();
        assert_eq!(stats.num_regretted_blocks > 0, expect_regret, "{num_prompts}, {regret_window}, {clear}: {stats:?}");
        assert!(stats.num_regretted_blocks <= 2 * u64::from(num_prompts), "about {num_prompts}: {stats:?}");
        assert_eq!(stats.lifetimes.count(), stats.num_evicted_blocks);
    };
    check(15, 256, false, false);
    check(200, 256, false, true);
    check(200, 256, true, false);
    check(200, 0, false, false);
    check(200, 64, false, false);
}

#[test]
fn gaps_and_lifetimes_are_in_steps() {
    let mut cache = KvCache::new(KvCacheConfig::new(16, 2)).expect("sound");
    // Used again after ten steps in which others were served.
    let step = serve(&mut cache, 0..11, 0);
    let step = serve(&mut cache, 0..1, step);
    assert!(cache.stats().reuse_gaps.buckets().eq([(8, 1)]), "{:?}", cache.stats());
    // 16 more contents push out the first ones, 8 to 31 steps after those were computed.
    serve(&mut cache, 100..116, step);
    assert_eq!(cache.stats().lifetimes.count(), cache.stats().num_evicted_blocks);
    assert!(cache.stats().lifetimes.buckets().all(|(least, _)| least == 8 || least == 16), "{:?}", cache.stats());
}
