//! The cache beside a naive model of it: random operations, shrunk on failure, and every short sequence of operations on a
//! tiny pool.

mod model;

use kv_paging::{LogicalTime, PrefixCaching, Retention, TokenId};
use model::{Model, Op};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

/// Two tokens, so that prefixes meet all the time.
fn tokens(max_len: usize) -> impl Strategy<Value = Vec<TokenId>> {
    vec(0..2_u32, 0..=max_len)
}

fn op() -> impl Strategy<Value = Op> {
    let sequence = || 0..4_usize;
    prop_oneof![
        3 => (0..2_u8, tokens(9)).prop_map(|(tenant, prompt)| Op::Admit { tenant, prompt }),
        4 => (sequence(), tokens(5)).prop_map(|(sequence, tokens)| Op::Extend { sequence, tokens }),
        4 => sequence().prop_map(|sequence| Op::Promise { sequence }),
        2 => Just(Op::Launch),
        2 => Just(Op::Retire(true)),
        1 => Just(Op::Retire(false)),
        1 => (sequence(), 1..6_usize, any::<bool>())
            .prop_map(|(sequence, num_cut, after)| Op::Truncate { sequence, num_cut, after }),
        2 => (sequence(), 0..4_usize).prop_map(|(sequence, num_cut)| Op::Fork { sequence, num_cut }),
        3 => (sequence(), any::<bool>()).prop_map(|(sequence, after)| Op::Release { sequence, after }),
    ]
}

/// Who asks for more than `Normal`, and what is pinned.
fn keep() -> impl Strategy<Value = Op> {
    let retention = prop_oneof![
        1 => Just(Retention::Low),
        3 => (0..40_u64).prop_map(|until| Retention::High { until: LogicalTime(until) }),
    ];
    prop_oneof![
        4 => (0..4_usize, retention).prop_map(|(sequence, retention)| Op::Retain { sequence, retention }),
        3 => prop_oneof![1..4_u64, 4..20_u64].prop_map(|by| Op::Advance { by }),
        2 => (0..2_u8, tokens(9)).prop_map(|(tenant, tokens)| Op::Pin { tenant, tokens }),
        1 => Just(Op::Unpin),
    ]
}

/// Forgetting is rare, or nothing ever builds up.
fn ops() -> impl Strategy<Value = Vec<Op>> {
    let forget = (0..4_usize).prop_map(|sequence| Op::Forget { sequence });
    vec(prop_oneof![60 => op(), 20 => keep(), 2 => forget, 1 => Just(Op::Clear)], 1..120)
}

/// Copies between the tiers among everything else.
fn ops_with_host() -> impl Strategy<Value = Vec<Op>> {
    let host = prop_oneof![
        2 => (0..5_usize).prop_map(|max_blocks| Op::Offload { max_blocks }),
        3 => (0..2_u8, tokens(9)).prop_map(|(tenant, prompt)| Op::Fetch { tenant, prompt }),
    ];
    let forget = (0..4_usize).prop_map(|sequence| Op::Forget { sequence });
    vec(prop_oneof![60 => op(), 25 => host, 10 => keep(), 2 => forget, 1 => Just(Op::Clear)], 1..150)
}

fn check(num_blocks: u32, block_size: u32, prefix_caching: PrefixCaching, ops: &[Op]) {
    check_with_host(num_blocks, 0, block_size, prefix_caching, ops);
}

fn check_with_host(num_blocks: u32, num_host_blocks: u32, block_size: u32, prefix_caching: PrefixCaching, ops: &[Op]) {
    let mut model = Model::new(num_blocks, num_host_blocks, block_size, prefix_caching);
    for op in ops {
        model.apply(op);
    }
    model.finish();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_operations(num_blocks in 1..9_u32, block_size_log2 in 0..3_u32, ops in ops()) {
        check(num_blocks, 1 << block_size_log2, PrefixCaching::On, &ops);
    }

    #[test]
    fn random_operations_with_a_host_tier(
        num_blocks in 1..9_u32,
        num_host_blocks in 1..13_u32,
        block_size_log2 in 0..3_u32,
        ops in ops_with_host(),
    ) {
        check_with_host(num_blocks, num_host_blocks, 1 << block_size_log2, PrefixCaching::On, &ops);
    }

    #[test]
    fn random_operations_without_prefix_caching(num_blocks in 1..9_u32, ops in ops()) {
        check_with_host(num_blocks, 4, 2, PrefixCaching::Off, &ops);
    }
}

/// Rare meetings, each found by reasoning or by a planted bug that nothing else caught.
#[test]
fn directed_operations() {
    let start = |tenant, prompt: &[TokenId]| Op::Start { tenant, prompt: prompt.to_vec() };
    let extend = |sequence, tokens: &[TokenId]| Op::Extend { sequence, tokens: tokens.to_vec() };
    // A copy of a promised block is filled up before its original is.
    check(
        8,
        2,
        PrefixCaching::On,
        &[
            start(0, &[0, 0]),
            Op::Fork { sequence: 0, num_cut: 1 },
            extend(1, &[1]),
            Op::Promise { sequence: 1 },
            Op::Retire(true),
            Op::Promise { sequence: 1 },
        ],
    );
    // A copy of a promised block is made after promises for a later step.
    check(
        8,
        2,
        PrefixCaching::On,
        &[start(0, &[0, 0]), Op::Launch, start(1, &[0, 0]), Op::Fork { sequence: 0, num_cut: 1 }, Op::Retire(false)],
    );
    // A promise is made, matched behind an equal and better block, and cleared; then what it was computed from fails.
    check(
        8,
        1,
        PrefixCaching::On,
        &[
            start(0, &[0]),
            Op::Launch,
            start(0, &[0]),
            Op::Launch,
            extend(1, &[1]),
            Op::Promise { sequence: 1 },
            Op::Admit { tenant: 0, prompt: vec![0, 1, 1] },
            Op::Clear,
            Op::Retire(true),
            Op::Retire(false),
        ],
    );
    // A table reaches a block through one of two equal ones, which fails, while the other is released and evicted.
    check(
        4,
        1,
        PrefixCaching::On,
        &[
            start(0, &[0]),
            start(0, &[0]),
            Op::Release { sequence: 1, after: false },
            Op::Launch,
            start(0, &[0]),
            Op::Launch,
            extend(1, &[1]),
            Op::Promise { sequence: 1 },
            Op::Admit { tenant: 0, prompt: vec![0, 1, 1] },
            Op::Retire(false),
            Op::Release { sequence: 1, after: false },
            Op::Retire(true),
            Op::Retire(true),
            start(1, &[0, 0, 0]),
        ],
    );
    // Two tables share a block that is forgotten, each behind one of two equal blocks; then one of them is promised again.
    check(
        8,
        1,
        PrefixCaching::On,
        &[
            start(0, &[0]),
            start(0, &[0]),
            extend(1, &[1]),
            Op::Promise { sequence: 1 },
            Op::Admit { tenant: 0, prompt: vec![0, 1, 1] },
            Op::Forget { sequence: 0 },
            Op::Retire(true),
            Op::Promise { sequence: 1 },
            Op::Retire(true),
            Op::Release { sequence: 1, after: false },
        ],
    );
}

/// A block and its parent, which is to be kept longer, both expire in one go: it is still evicted before its parent.
#[test]
fn retentions_that_end_together() {
    let until = |sequence, until| Op::Retain { sequence, retention: Retention::High { until: LogicalTime(until) } };
    check(
        4,
        1,
        PrefixCaching::On,
        &[
            Op::Start { tenant: 0, prompt: vec![0, 1] },
            Op::Retire(true),
            Op::Admit { tenant: 0, prompt: vec![0, 0] },
            until(0, 2),
            until(1, 5),
            Op::Release { sequence: 0, after: false },
            Op::Release { sequence: 0, after: false },
            Op::Advance { by: 8 },
        ],
    );
}

/// Every sequence of up to five of these operations, on three blocks of one token.
#[test]
fn all_short_sequences() {
    let alphabet = [
        Op::Start { tenant: 0, prompt: vec![0, 0] },
        Op::Start { tenant: 0, prompt: vec![0, 0, 1] },
        Op::Start { tenant: 1, prompt: vec![0] },
        Op::Extend { sequence: 0, tokens: vec![0] },
        Op::Promise { sequence: 0 },
        Op::Launch,
        Op::Retire(true),
        Op::Retire(false),
        Op::Truncate { sequence: 0, num_cut: 1, after: true },
        Op::Fork { sequence: 0, num_cut: 0 },
        Op::Release { sequence: 0, after: false },
        Op::Release { sequence: 1, after: true },
        Op::Forget { sequence: 0 },
        Op::Clear,
    ];
    let num_checked = check_all(&alphabet, 0, &mut Vec::new(), MAX_LEN);
    assert!(num_checked > 100_000, "only {num_checked} sequences made sense");
}

/// Every sequence of up to six of these operations, on two blocks of one token and two of a host tier.
#[test]
fn all_short_sequences_with_a_host_tier() {
    let alphabet = [
        Op::Start { tenant: 0, prompt: vec![0, 0] },
        Op::Start { tenant: 0, prompt: vec![1] },
        Op::Fetch { tenant: 0, prompt: vec![0, 0, 0] },
        Op::Offload { max_blocks: 2 },
        Op::Retire(true),
        Op::Retire(false),
        Op::Release { sequence: 0, after: true },
        Op::Forget { sequence: 0 },
    ];
    let num_checked = check_all(&alphabet, 2, &mut Vec::new(), MAX_LEN_WITH_HOST);
    assert!(num_checked > 100_000, "only {num_checked} sequences made sense");
}

const MAX_LEN: usize = 5;
const MAX_LEN_WITH_HOST: usize = 6;

/// Checks every sequence that extends `path` to at most `max_len` operations, and returns their number. `path` itself has
/// been checked; it is replayed for each, because tables cannot be cloned.
fn check_all(alphabet: &[Op], num_host_blocks: u32, path: &mut Vec<Op>, max_len: usize) -> u64 {
    let mut num_checked = 0;
    for op in alphabet {
        // As many blocks in all, with and without a host tier.
        let mut model = Model::new(if num_host_blocks > 0 { 2 } else { 3 }, num_host_blocks, 1, PrefixCaching::On);
        for op in &*path {
            model.replay(op);
        }
        if !model.apply(op) {
            continue;
        }
        num_checked += 1;
        model.finish();
        path.push(op.clone());
        if path.len() < max_len {
            num_checked += check_all(alphabet, num_host_blocks, path, max_len);
        }
        path.pop();
    }
    num_checked
}
