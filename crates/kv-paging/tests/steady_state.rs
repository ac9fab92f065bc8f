//! Counts heap allocations: once the cache has seen its peak, serving allocates nothing.
#![allow(unsafe_code, reason = "a global allocator that counts can only be an unsafe impl")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kv_paging::{
    Admission, BlockTable, KvCache, KvCacheConfig, LogicalTime, PrefixKeys, Retention, Salt, StepId, StepOutcome,
    TokenId,
};

struct CountingAllocator;

thread_local! {
    /// Allocations of this thread; the test harness has threads of its own.
    static NUM_ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system allocator with the arguments as they came, so its guarantees are kept. Counting
// allocates nothing: the counter is initialised at compile time and has no destructor. `realloc` and `alloc_zeroed` count
// through `alloc`.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        NUM_ALLOCATIONS.set(NUM_ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps `alloc`'s contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `System.alloc` with this layout, as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const BLOCK_SIZE: u32 = 16;
const PROMPT_TOKENS: u32 = 400;
const OUTPUT_TOKENS: u32 = 60;
const NUM_SEQUENCES: usize = 8;

/// Serves rounds of sequences in a pool too small to cache them all: hits, duplicates, evictions, forks, cuts, a failed
/// step, events. Keys are made outside, as a server would on another thread.
struct Server {
    cache: KvCache,
    keys: Vec<PrefixKeys>,
    tables: Vec<BlockTable>,
    num_events: u64,
    num_copies: u64,
    step: u64,
}

impl Server {
    fn new(num_host_blocks: u32) -> Self {
        let num_blocks = NUM_SEQUENCES as u32 * (PROMPT_TOKENS + OUTPUT_TOKENS).div_ceil(BLOCK_SIZE);
        let config = KvCacheConfig { num_host_blocks, ..KvCacheConfig::new(num_blocks, BLOCK_SIZE) };
        let mut cache = KvCache::new(config).expect("the configuration is sound");
        cache.record_events(10_000);
        // Half of each prompt is common to all, and the two prompts of each pair are equal.
        let keys = (0..4 * NUM_SEQUENCES as u32).map(|sequence| {
            let own = |position: u32| if position < PROMPT_TOKENS / 2 { position } else { sequence / 2 + position };
            let tokens: Vec<TokenId> = (0..PROMPT_TOKENS + OUTPUT_TOKENS).map(own).collect();
            let mut keys = PrefixKeys::new(&Salt::default(), BLOCK_SIZE);
            keys.extend(&tokens);
            keys
        });
        Self {
            cache,
            keys: keys.collect(),
            tables: Vec::with_capacity(2 * NUM_SEQUENCES),
            num_events: 0,
            num_copies: 0,
            step: 0,
        }
    }

    fn serve(&mut self, round: usize) {
        let first = round % 4 * NUM_SEQUENCES;
        let Self { cache, keys, tables, num_events, num_copies, step } = self;
        let keys = &keys[first..first + NUM_SEQUENCES];
        for keys in keys {
            let Admission { mut table, .. } = cache.admit(keys, &keys.tokens()[..PROMPT_TOKENS as usize]);
            cache.fetch(&mut table, keys, &keys.tokens()[..PROMPT_TOKENS as usize], StepId(*step));
            cache.grow(&mut table, PROMPT_TOKENS).expect("the pool holds all prompts");
            cache.promise(&table, keys, PROMPT_TOKENS, StepId(*step));
            tables.push(table);
        }
        for num_tokens in PROMPT_TOKENS + 1..=PROMPT_TOKENS + OUTPUT_TOKENS {
            *step += 1;
            for (table, keys) in tables.iter_mut().zip(keys) {
                cache.grow(table, num_tokens + 3).expect("the pool holds all outputs and drafts");
                cache.truncate(table, num_tokens, Some(StepId(*step)));
                cache.promise(table, keys, num_tokens, StepId(*step));
            }
            cache.offload(8, StepId(*step));
            cache.drain_copies(|_| *num_copies += 1);
            // Now and then a step fails that filled blocks.
            let outcome = if num_tokens % 32 == 1 { StepOutcome::Failed } else { StepOutcome::Completed };
            cache.retire(StepId(*step - 1), outcome);
            cache.drain_events(|_| *num_events += 1);
        }
        let (fork, _) = cache.fork(&tables[0], PROMPT_TOKENS - 5).expect("one block for the copy");
        tables.push(fork);
        // Some of what is kept is worth more than the rest, until later rounds.
        cache.advance(LogicalTime(round as u64));
        for (mut table, kept_for) in tables.drain(..).zip(0..) {
            table.set_retention(match kept_for {
                0 => Retention::Low,
                1 | 2 => Retention::High { until: LogicalTime(round as u64 + kept_for) },
                _ => Retention::Normal,
            });
            cache.release(table, Some(StepId(*step)));
        }
        cache.retire(StepId(*step), StepOutcome::Completed);
        *step += 1;
    }
}

#[test]
fn serving_allocates_nothing() {
    let server = check(0);
    assert!(server.cache.stats().num_regretted_blocks > 0, "what was evicted is missed");
}

/// The host tier is too small for all that is served, so it evicts too.
#[test]
fn serving_with_a_host_tier_allocates_nothing() {
    let server = check(160);
    let stats = server.cache.stats();
    for (what, count) in [
        ("copies", server.num_copies),
        ("offloads", stats.num_offloaded_blocks),
        ("fetches", stats.num_fetched_tokens),
        ("evictions from the host tier", stats.num_host_evicted_blocks),
    ] {
        assert!(count > 0, "no {what}");
    }
}

fn check(num_host_blocks: u32) -> Server {
    let mut server = Server::new(num_host_blocks);
    (0..12).for_each(|round| server.serve(round));
    let before = (NUM_ALLOCATIONS.get(), *server.cache.stats(), server.num_events);
    (12..100).for_each(|round| server.serve(round));
    let num_allocations = NUM_ALLOCATIONS.get() - before.0;
    assert_eq!(num_allocations, 0, "no allocation in steady state");

    // The rounds did what they were to do.
    let after = *server.cache.stats();
    for (what, before, after) in [
        ("hits", before.1.num_hit_tokens, after.num_hit_tokens),
        ("evictions", before.1.num_evicted_blocks, after.num_evicted_blocks),
        ("lifetimes", before.1.lifetimes.count(), after.lifetimes.count()),
        ("reuse gaps", before.1.reuse_gaps.count(), after.reuse_gaps.count()),
        ("duplicates", before.1.num_duplicate_blocks, after.num_duplicate_blocks),
        ("withdrawals", before.1.num_withdrawn_blocks, after.num_withdrawn_blocks),
        ("events", before.2, server.num_events),
    ] {
        assert!(after > before, "{what}: {before}, then {after}");
    }
    server.cache.check_invariants();
    assert!(before.0 > 0, "the allocator counts");
    server
}
