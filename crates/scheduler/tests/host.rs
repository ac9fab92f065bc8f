//! The host's KV pool, as batches show it: what is copied out and back, and when it is computed again instead. Results are made
//! up: each row that samples gets the token 7.

use std::sync::Arc;
use std::time::Duration;

use scheduler::{NewRequest, Planned, Policy, PrefixCaching, PrefixKeys, Scheduler, SchedulerConfig, Update};
use serving_types::{
    Batch, BatchOutput, HostCopy, RequestClass, RequestId, RowOutput, SamplingParams, StepId, TokenId,
};

/// Room for two requests of eight tokens that do not grow by more than a block, or for a prompt of 20.
const CONFIG: SchedulerConfig = SchedulerConfig {
    block_size: 4,
    num_blocks: 6,
    num_host_blocks: 20,
    max_batch_tokens: 24,
    max_mixed_prefill_tokens: 24,
    expected_output_tokens: 1,
    max_batch_rows: 4,
    max_model_len: 100,
    max_waiting: 10,
    prefix_caching: PrefixCaching::On,
    policy: Policy::FirstCome,
};

struct Bench {
    scheduler: Scheduler,
    next_step: u64,
    next_id: u64,
    /// The first step whose copies from the host have not arrived yet; `None`: they arrive with their step.
    copying: Option<StepId>,
}

impl Bench {
    fn new() -> Self {
        Self { scheduler: Scheduler::new(CONFIG).unwrap(), next_step: 0, next_id: 0, copying: None }
    }

    /// With a larger pool, and a prompt of 20 tokens of which the host's pool alone holds 16.
    fn with_prompt_in_host() -> Self {
        let mut bench = Self::new();
        bench.scheduler = Scheduler::new(SchedulerConfig { num_blocks: 8, ..CONFIG }).unwrap();
        for first in [100, 200, 300] {
            bench.play(&prompt(first, 20), Duration::from_millis(20));
        }
        bench
    }

    fn submit(&mut self, prompt: &[TokenId], max_tokens: u32) -> RequestId {
        let mut keys = PrefixKeys::new(&Default::default(), CONFIG.block_size);
        keys.extend(prompt);
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let sampling = Arc::new(SamplingParams { max_tokens, ..SamplingParams::default() });
        let class = RequestClass::default();
        let request = NewRequest { id, prompt: keys, sampling, class, first_token_deadline: None, deadline: None };
        self.scheduler.submit(request).unwrap();
        id
    }

    /// Plays a step, and writes it as `rows (copies out/copies back)`.
    fn step(&mut self) -> String {
        let (mut batch, mut updates) = (Batch::new(), Vec::<Update>::new());
        let step = StepId(self.next_step);
        assert_eq!(self.scheduler.plan(step, &mut batch), Planned::Batch);
        self.next_step += 1;
        let fetched_through = match self.copying {
            None => Some(step),
            Some(first) => first.0.checked_sub(1).map(StepId),
        };
        let mut output = BatchOutput { fetched_through, ..BatchOutput::default() };
        for row in &batch.rows {
            let start = output.tokens.len() as u32;
            output.tokens.extend(row.sample.then_some(7));
            output.rows.push(RowOutput { tokens: start..output.tokens.len() as u32, ..RowOutput::default() });
        }
        self.scheduler.complete(step, &output, &mut updates);
        self.scheduler.check_invariants();
        let rows: Vec<String> = batch.rows.iter().map(|row| format!("{}+{}", row.start, row.num_tokens())).collect();
        let num_back = batch.host_copies.iter().filter(|copy| matches!(copy, HostCopy::Fetch { .. })).count();
        format!("{} ({}/{num_back})", rows.join(" "), batch.host_copies.len() - num_back)
    }

    /// From the next step on copies from the host are under way, until [`arrive`](Self::arrive).
    fn delay_copies(&mut self) {
        self.copying = Some(StepId(self.next_step));
    }

    fn arrive(&mut self) {
        self.copying = None;
    }

    /// Plays a request alone whose first token is its last, and in which each token and each copied block takes so long.
    /// Another step follows, which copies to the host what it filled.
    fn play_at(&mut self, prompt: &[TokenId], token: Duration, copy: Duration) -> Vec<String> {
        self.submit(prompt, 1);
        let mut steps = Vec::new();
        let mut num_left = prompt.len() as u32;
        while self.scheduler.num_requests() > 0 {
            let (hits, tokens) = (self.scheduler.stats().host_hit_tokens, self.scheduler.stats().planned_tokens);
            steps.push(self.step());
            let num_fetched = (self.scheduler.stats().host_hit_tokens - hits) as u32;
            let num_computed = (self.scheduler.stats().planned_tokens - tokens) as u32;
            num_left -= num_fetched + num_computed;
            self.scheduler.observe_step(token * num_computed + copy * (num_fetched / CONFIG.block_size));
        }
        assert_eq!(num_left, 0, "all is copied or computed");
        self.submit(&[1], 1);
        self.step();
        steps
    }

    fn play(&mut self, prompt: &[TokenId], took: Duration) {
        let steps = self.play_at(prompt, took / prompt.len() as u32, Duration::ZERO);
        assert_eq!(steps.len(), 1, "nothing is copied back");
    }
}

fn prompt(first: TokenId, num_tokens: u32) -> Vec<TokenId> {
    (first..first + num_tokens).collect()
}

#[test]
fn a_preempted_request_gets_back_what_it_had() {
    let mut bench = Bench::new();
    bench.submit(&prompt(100, 8), 16);
    bench.submit(&prompt(200, 8), 9);
    let steps: Vec<String> = (0..6).map(|_| bench.step()).collect();
    // The full blocks of each are copied by the step after the one that filled them.
    let expected =
        ["0+8 0+8 (0/0)", "8+1 8+1 (4/0)", "9+1 9+1 (0/0)", "10+1 10+1 (0/0)", "11+1 11+1 (0/0)", "12+1 (1/0)"];
    assert_eq!(steps, expected, "the second makes way");
    assert_eq!(bench.scheduler.stats().preemptions, 1);
    // The first comes to need the whole pool.
    let last = (13..23).map(|_| bench.step()).last();
    assert_eq!(last.as_deref(), Some("22+1 (0/0)"));
    assert_eq!(bench.step(), " (0/2)", "all but the block that was filled last comes back");
    assert_eq!(bench.step(), "8+5 (0/0)");
    assert_eq!(bench.scheduler.stats().host_hit_tokens, 8);
}

#[test]
fn others_decode_while_a_prefix_is_on_its_way() {
    let mut bench = Bench::with_prompt_in_host();
    bench.submit(&[1, 2], 10);
    assert_eq!(bench.step(), "0+2 (0/0)");
    bench.delay_copies();
    bench.submit(&prompt(100, 17), 1);
    assert_eq!(bench.step(), "2+1 (0/4)");
    assert_eq!(bench.step(), "3+1 (0/0)");
    bench.arrive();
    assert_eq!(bench.step(), "4+1 (1/0)", "what arrives with a step is known after it");
    assert_eq!(bench.step(), "5+1 16+1 (0/0)");
}

#[test]
fn whoever_matches_what_is_on_its_way_waits_for_it_too() {
    let mut bench = Bench::with_prompt_in_host();
    bench.delay_copies();
    bench.submit(&prompt(100, 17), 2);
    assert_eq!(bench.step(), " (0/4)");
    let again = bench.submit(&prompt(100, 18), 2);
    assert_eq!(bench.step(), " (0/0)", "nothing is copied twice, and nothing else can be done");
    bench.arrive();
    assert_eq!(bench.step(), " (0/0)");
    // Half of the step is held back for the longer one, as ever; there is room for both.
    assert_eq!(bench.step(), "16+1 16+2 (0/0)");
    bench.scheduler.cancel(again, &mut Vec::new());
    assert_eq!(bench.step(), "17+1 (0/0)");
    assert_eq!(bench.scheduler.num_requests(), 0);
}

#[test]
fn a_cancel_waits_for_no_copy() {
    let mut bench = Bench::with_prompt_in_host();
    bench.delay_copies();
    let request = bench.submit(&prompt(100, 17), 2);
    assert_eq!(bench.step(), " (0/4)");
    bench.scheduler.cancel(request, &mut Vec::new());
    assert_eq!(bench.scheduler.plan(StepId(bench.next_step), &mut Batch::new()), Planned::Idle);
    // Somebody else needs all blocks, also those that are still being filled: the executor does one after the other.
    bench.submit(&prompt(400, 24), 1);
    assert_eq!(bench.step(), "0+24 (0/0)");
}

#[test]
fn what_is_dearer_to_copy_than_to_compute_is_computed_until_it_is_tried_again() {
    // Whether copies arrive with their step or later.
    for delayed in [false, true] {
        let mut bench = Bench::new();
        let (token, copy) = (Duration::from_millis(1), Duration::from_millis(10));
        let (one, other) = (prompt(100, 20), prompt(200, 20));
        assert_eq!(bench.play_at(&one, token, copy), ["0+20 (0/0)"]);
        assert_eq!(bench.play_at(&other, token, copy), ["0+20 (0/0)"]);
        // Not measured, so it is tried: 16 tokens that would have taken 16 milliseconds take 40.
        if delayed {
            bench.delay_copies();
            bench.submit(&one, 1);
            assert_eq!(bench.step(), " (0/4)");
            bench.scheduler.observe_step(Duration::from_millis(30));
            bench.arrive();
            assert_eq!(bench.step(), " (0/0)");
            bench.scheduler.observe_step(Duration::from_millis(10));
            assert_eq!(bench.step(), "16+4 (0/0)");
            bench.scheduler.observe_step(4 * token);
            bench.submit(&[1], 1);
            bench.step();
        } else {
            assert_eq!(bench.play_at(&one, token, copy), [" (0/4)", "16+4 (0/0)"]);
        }
        let mut num_computed = 0;
        while bench.play_at(if num_computed % 2 == 0 { &other } else { &one }, token, copy).len() == 1 {
            num_computed += 1;
        }
        assert!((10..100).contains(&num_computed), "tried again after {num_computed} times");
    }
}
