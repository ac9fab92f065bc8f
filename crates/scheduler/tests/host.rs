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
}

impl Bench {
    fn new() -> Self {
        Self { scheduler: Scheduler::new(CONFIG).unwrap(), next_step: 0, next_id: 0 }
    }

    fn submit(&mut self, prompt: &[TokenId], max_tokens: u32) {
        let mut keys = PrefixKeys::new(&Default::default(), CONFIG.block_size);
        keys.extend(prompt);
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let sampling = Arc::new(SamplingParams { max_tokens, ..SamplingParams::default() });
        let class = RequestClass::default();
        let request = NewRequest { id, prompt: keys, sampling, class, first_token_deadline: None, deadline: None };
        self.scheduler.submit(request).unwrap();
    }

    /// Plays a step, and writes it as `rows (copies out/copies back)`.
    fn step(&mut self) -> String {
        let (mut batch, mut updates) = (Batch::new(), Vec::<Update>::new());
        let step = StepId(self.next_step);
        assert_eq!(self.scheduler.plan(step, &mut batch), Planned::Batch);
        self.next_step += 1;
        let mut output = BatchOutput::default();
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

    /// Plays a request alone whose end comes with its first step, which takes so long. Another step follows, which copies to
    /// the host what it filled.
    fn play(&mut self, prompt: &[TokenId], took: Duration) -> String {
        self.submit(prompt, 1);
        let step = self.step();
        self.scheduler.observe_step(took);
        self.submit(&[1], 1);
        self.step();
        step
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
    assert_eq!(bench.step(), "8+5 (0/2)", "all but the block that was filled last comes back");
    assert_eq!(bench.scheduler.stats().host_hit_tokens, 8);
}

#[test]
fn what_is_dearer_to_copy_than_to_compute_is_computed_until_it_is_tried_again() {
    let mut bench = Bench::new();
    let ms = Duration::from_millis;
    let (one, other) = (prompt(100, 20), prompt(200, 20));
    // A millisecond a token.
    assert_eq!(bench.play(&one, ms(20)), "0+20 (0/0)");
    assert_eq!(bench.play(&other, ms(20)), "0+20 (0/0)");
    // Not measured, so it is tried: 16 tokens that would have taken 16 milliseconds take 40.
    assert_eq!(bench.play(&one, ms(44)), "16+4 (0/4)");
    let mut num_computed = 0;
    loop {
        let prompt = if num_computed % 2 == 0 { &other } else { &one };
        match bench.play(prompt, ms(20)).split_once(' ').expect("rows and copies").0 {
            "0+20" => num_computed += 1,
            _ => break,
        }
    }
    assert!((10..100).contains(&num_computed), "tried again after {num_computed} times");
}
